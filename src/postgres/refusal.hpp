#pragma once

#include <string_view>

namespace pillion::postgres {

/// May a connection that failed with this text of libpq succeed later, without anybody changing a
/// setting? libpq gives a failed connection no SQLSTATE, so its lines decide, one per attempt, as
/// PQerrorMessage joins them. It does not heal when every host of the URL gave a final answer.
/// What is not known to be final, also because it is in another language, may heal: to wait and say
/// why harms less than to end over an outage.
bool healsByWaiting(std::string_view message);

}  // namespace pillion::postgres
