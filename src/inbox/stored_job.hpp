#pragma once

#include <string>
#include <string_view>

#include "inbox/delivery_queue.hpp"

namespace pillion::inbox {

/// A delivery as bytes (CBOR, RFC 8949), for the table of parked events: what arrived comes back
/// unchanged, text or not.
std::string storedForm(const Job& job);
/// Throws Error for bytes that storedForm did not make.
Job jobFromStored(std::string_view bytes);

}  // namespace pillion::inbox
