#pragma once

#include <chrono>
#include <pillion/group.hpp>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "inbox/holdings.hpp"

// Every statement on the tables `inbox_group` and `inbox_instance`.

namespace pillion::inbox {

/// An instance of a consumer with partitions.
struct Member {
  std::string consumer;
  std::string instance;  // a UUID
  std::string name;      // for operators
};

struct Share {
  Assignment assignment;
  bool isSettled = false;  // every partition is consumed, and nobody has more than a fair share
};

/// Says that the instance lives, what it had and how far it is, and asks for its share. `initial`:
/// how many partitions the consumer has when it is new. See share_partitions in
/// sql/0003_inbox.sql.
Share sharePartitions(pqxx::transaction_base& tx, const std::string& schema, const Member& member,
                      int initial, std::chrono::milliseconds lease, const Assignment& had,
                      const Consumption& consumption);
/// The instance consumes nothing any more.
void leaveGroup(pqxx::transaction_base& tx, const std::string& schema, const Member& member);

/// Has the number of partitions changed, while the consumer runs or not. Throws ConfigError when
/// there is no such consumer, or it is being changed already to another number.
void changePartitions(pqxx::transaction_base& tx, const std::string& schema,
                      const std::string& consumer, int partitions);

std::vector<GroupStatus> readGroups(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::inbox
