#pragma once

#include <optional>
#include <pqxx/pqxx>
#include <span>
#include <string>
#include <vector>

#include "inbox/inbox.hpp"
#include "inbox/inbox_table.hpp"
#include "postgres/begun_work.hpp"
#include "postgres/kept_savepoint.hpp"
#include "postgres/session.hpp"

namespace pillion::inbox {

/// One transaction of an inbox. No text that a handler runs can commit it, and no handler finds
/// what another one has changed besides rows. `functionsSet`: see `anyFunctionSets`.
class PostgresInboxTransaction : public InboxTransaction {
 public:
  PostgresInboxTransaction(postgres::OpenSession& session, const std::string& schema,
                           const std::string& consumer, bool functionsSet, WallTime now);

  std::optional<std::vector<Claim>> claim(std::span<const amqp::Identity* const> events,
                                          Wait patience) override;
  bool holdBack(const Job& job, const amqp::Identity& identity) override;
  void leaveToOthers(const Job& job, const amqp::Identity& identity) override;
  void run(const Handler& handler, const Event& event) override;
  void park(const Job& job, const amqp::Identity& identity, const Failure& failure,
            Wait wait) override;
  void forget(const amqp::Identity& identity) override;
  void deadLetter(const Job& job, const Failure& failure, int attempts) override;
  bool lock(const ParkedEvent& event) override;
  std::vector<ParkedEvent> lockBehind(const ParkedEvent& event, int most) override;
  void unpark(const ParkedEvent& event, std::span<const ParkedEvent> behind) override;
  void giveUp(const ParkedEvent& event, const Failure& failure, int attempts) override;
  void failAgain(const ParkedEvent& event, const Failure& failure, Wait wait) override;
  void commit() override;

 private:
  Transaction& handlersTransaction();
  void leaveHandler();
  void refresh();
  void endHandlers();
  template <typename Work>
  void own(const char* doing, Work work) const;
  [[noreturn]] void blame() const;
  void requireConnection() const;
  bool isForgotten(const std::string& eventId);

  postgres::OpenSession& session_;
  const std::string& schema_;
  const std::string& consumer_;
  bool functionsSet_;
  WallTime now_;
  std::size_t events_ = 0;  // that share it
  bool anyParked_ = true;
  bool guarded_ = true;
  std::optional<WallTime> horizon_;
  postgres::BegunWork work_;
  std::optional<postgres::KeptSavepoint> savepoint_;  // ends before work_
};

}  // namespace pillion::inbox
