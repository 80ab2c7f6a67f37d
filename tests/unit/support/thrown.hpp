#pragma once

#include <doctest/doctest.h>

#include <string>

namespace pillion::test {

/// The text of the exception of type `E` that `work` throws; a failed check and "" when it throws
/// none or another.
template <typename E, typename Work>
std::string textThrown(const Work& work) {
  try {
    work();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    FAIL_CHECK("another exception: ", error.what());
    return "";
  }
  FAIL_CHECK("nothing was thrown");
  return "";
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace pillion::test
