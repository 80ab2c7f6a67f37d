#pragma once

#include <pqxx/pqxx>
#include <string>

// Every statement on the table `meta`: which cluster the cursor is of, and which outbox this is.

namespace pillion::migrate {

/// Throws SchemaError when this is not the cluster, or not the state of it, that the cursor belongs
/// to: a cursor of transaction ids would silently skip events there.
void requireOwnCluster(pqxx::transaction_base& tx, const std::string& schema);

/// Throws SchemaError when the cursor names transactions that this cluster has not seen yet.
void requireCursorInReach(pqxx::transaction_base& tx, const std::string& schema);

/// Notes that the cursor belongs to this cluster.
void storeCluster(pqxx::transaction_base& tx, const std::string& schema);

/// The same text for every relay of this outbox, and for no other outbox: cluster, database,
/// schema, and what it was given when it was installed or adopted.
std::string outboxIdentity(pqxx::transaction_base& tx, const std::string& schema);

/// The same for every consumer whose inbox is here: short, since a broker's refusal quotes two of
/// them in 255 bytes, and with the database's name, for people.
std::string inboxIdentity(pqxx::transaction_base& tx, const std::string& schema);

/// This outbox is another one than it was, to everybody outside of the database.
void renewIdentity(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::migrate
