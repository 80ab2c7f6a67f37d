/// Pillion: events that ride on a database transaction.
///
/// Read on in the order in which an event travels: event.hpp, publisher.hpp, relay.hpp,
/// consumer.hpp; then dead_letters.hpp, migrator.hpp, status.hpp, restore.hpp, options.hpp,
/// error.hpp, log.hpp.
#pragma once

#include <pillion/consumer.hpp>
#include <pillion/dead_letters.hpp>
#include <pillion/error.hpp>
#include <pillion/event.hpp>
#include <pillion/group.hpp>
#include <pillion/log.hpp>
#include <pillion/migrator.hpp>
#include <pillion/options.hpp>
#include <pillion/publisher.hpp>
#include <pillion/relay.hpp>
#include <pillion/replay.hpp>
#include <pillion/restore.hpp>
#include <pillion/status.hpp>
#include <pillion/transaction.hpp>
