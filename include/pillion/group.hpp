/// Consumers with partitions (ConsumerOptions::partitions): which instance consumes which, and how
/// many there are. `pillion partitions` is these functions on the command line.
#pragma once

#include <pillion/options.hpp>
#include <string>
#include <vector>

namespace pillion {

/// An instance of a consumer with partitions.
struct InstanceStatus {
  std::string name;             ///< host and process
  std::vector<int> partitions;  ///< that it consumes, those it is about to let go of included
  bool ready = false;           ///< it has a connection to the broker
  bool gone = false;            ///< it has not been heard of for the time of its lease
};

struct GroupStatus {
  std::string consumer;  ///< name of its queue
  int partitions = 0;
  int generation = 1;      ///< of its queues: one more each time that their number was changed
  int nextPartitions = 0;  ///< not 0: the number is being changed to this
  int drained = 0;         ///< so many of the present queues are worked off for that
  std::vector<InstanceStatus> instances;
};

/// One entry for each consumer with partitions that was ever started on this database. Throws
/// ConfigError, SchemaError or DatabaseError.
[[nodiscard]] std::vector<GroupStatus> readGroupStatus(const DatabaseOptions& options = {});

/// Has the number of partitions of a consumer changed, by its instances, while they run; returns at
/// once. They declare queues for the new number, which get all that is published from then on, work
/// the present ones off, and go over to the new ones when all of these have nothing left: so no
/// event is lost, and each key keeps its order. Until then the new ones wait; a queue that stands
/// still (a handler that hangs, say) holds the change up. Needs `BrokerOptions::declareTopology`.
///
/// `consumer`: name of its queue, `<service>.<subscription>`. `partitions`: 1 to 64. Throws
/// ConfigError when there is no such consumer, or when it is being changed to another number; and
/// as above.
void changePartitions(const DatabaseOptions& options, const std::string& consumer, int partitions);

}  // namespace pillion
