#pragma once

#include <string>
#include <string_view>

namespace pillion::postgres {

/// A name as a quoted SQL identifier; the only way in which a name gets into a statement. Throws
/// ConfigError for an empty name, one longer than PostgreSQL's 63 bytes, or one with a NUL byte.
std::string quoteIdentifier(std::string_view name);

/// The statement with every `{schema}` replaced by the quoted name.
std::string inSchema(std::string_view sql, std::string_view schema);

/// The same in ASCII, which means the same on a connection of any encoding. Not for a name within a
/// quoted text, which knows no such escapes.
std::string inSchemaAsAscii(std::string_view sql, std::string_view schema);

}  // namespace pillion::postgres
