#include "inbox/handler_table.hpp"

#include <doctest/doctest.h>

using pillion::Event;
using pillion::Transaction;
using pillion::inbox::Handler;
using pillion::inbox::HandlerTable;

namespace {

struct Named {
  std::string pattern;
  void operator()(const Event&, Transaction&) const {}
};

/// The pattern whose handler is found for a type, or "none".
std::string found(const std::vector<std::string>& patterns, const std::string& type) {
  HandlerTable table;
  for (const std::string& pattern : patterns) table.add(pattern, Named{pattern});
  const Handler* handler = table.find(type);
  return handler == nullptr ? "none" : handler->target<Named>()->pattern;
}

}  // namespace

TEST_CASE("a type without a handler finds none") {
  CHECK(found({}, "a") == "none");
  CHECK(found({"a", "b.*"}, "c") == "none");
  CHECK(found({"a"}, "A") == "none");
}

TEST_CASE("the exact type wins over a pattern, whichever was registered first") {
  CHECK(found({"product.*", "product.created"}, "product.created") == "product.created");
  CHECK(found({"product.created", "product.*"}, "product.created") == "product.created");
  CHECK(found({"#", "product.*", "product.created"}, "product.deleted") == "#");
}

TEST_CASE("of several patterns the one registered first wins") {
  CHECK(found({"product.#", "product.*"}, "product.created") == "product.#");
  CHECK(found({"product.*", "product.#"}, "product.created") == "product.*");
  CHECK(found({"product.*", "product.#"}, "product.a.b") == "product.#");
}
