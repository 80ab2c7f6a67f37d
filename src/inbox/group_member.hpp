#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <pillion/options.hpp>
#include <stop_token>
#include <string>

#include "base/reconnect.hpp"
#include "inbox/group_table.hpp"
#include "inbox/holdings.hpp"
#include "postgres/connection.hpp"

namespace pillion::inbox {

/// Shares the partitions of a consumer with its other instances, by leases in the service's
/// database: the thread that says every second that this one lives, and learns what it is to
/// consume. The broker's single active consumer stays the fence: an instance that was paused, and
/// whose partitions others have meanwhile, gets nothing more once they do.
class GroupMember {
 public:
  GroupMember(const DatabaseOptions& options, std::string consumer, int partitions,
              Holdings& holdings);

  /// First contact with the database; throws what waiting cannot heal.
  void open();
  /// Until stop is requested; the partitions are free then, and others need not wait for the lease.
  void serve(const std::stop_token& stop);
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  void turn();
  void leave() noexcept;
  void tellOfChange(const Assignment& now);

  DatabaseOptions options_;
  std::string schema_;
  Member member_;
  int initial_;
  Holdings& holdings_;
  std::unique_ptr<postgres::Connection> connection_;
  base::Reconnect database_;
  Assignment had_;
  bool isSettled_ = false;
  std::atomic<bool> ended_{false};
};

}  // namespace pillion::inbox
