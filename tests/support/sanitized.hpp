#pragma once

namespace pillion::support {

// Whether this program was built with a sanitizer, which takes several times the CPU and the
// memory: for the few tests that count them. Clang asks otherwise than GCC.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace pillion::support
