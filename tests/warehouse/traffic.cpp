#include "traffic.hpp"

#include <httplib.h>
#include <spdlog/fmt/fmt.h>

#include <nlohmann/json.hpp>

#include "interruption.hpp"

namespace pillion::warehouse {
namespace {

constexpr const char* kPath = "/api/v1/products";
constexpr int kHotProducts = 10;

std::string createBody(const std::string& sku, const std::string& name) {
  return nlohmann::json{{"sku", sku}, {"name", name}}.dump();
}

std::string nameBody(const std::string& name) {
  return nlohmann::json{{"name", name}}.dump();
}

std::string hotSku(int number) {
  return fmt::format("HOT-{}", number % kHotProducts);
}

httplib::Client connectTo(int port) {
  httplib::Client client("127.0.0.1", port);
  client.set_keep_alive(true);
  client.set_tcp_nodelay(true);
  client.set_read_timeout(std::chrono::seconds(20));
  return client;
}

}  // namespace

Traffic::Traffic(TrafficOptions options) : options_(options) {
  // A few products that all clients change at the same time: their order is the hard part.
  auto client = connectTo(options_.port);
  for (int i = 0; i < kHotProducts; ++i) {
    const auto answer = client.Post(kPath, createBody(hotSku(i), "hot"), "application/json");
    if (!answer || answer->status != 201) throw std::runtime_error("cannot create " + hotSku(i));
    ++succeeded_;
  }
  planned_ = kHotProducts;
  for (int i = 0; i < options_.clients; ++i) {
    plans_.push_back(plan(i));
    planned_ += static_cast<int>(plans_.back().size());
  }
  start_ = std::chrono::steady_clock::now();
  for (int i = 0; i < options_.clients; ++i) threads_.emplace_back([this, i] { work(i); });
}

Traffic::~Traffic() {
  stop_ = true;
  for (auto& thread : threads_) thread.join();
}

// Of five products one is renamed, of ten one is deleted, and after every fourth a hot one changes.
std::vector<Traffic::Request> Traffic::plan(int client) const {
  std::vector<Request> requests;
  for (int i = client; i < options_.products; i += options_.clients) {
    const auto sku = fmt::format("SKU-{:06}", i);
    const auto path = fmt::format("{}/{}", kPath, sku);
    requests.push_back({"POST", kPath, createBody(sku, fmt::format("Product {}", i)), 201});
    if (i % 5 == 0) requests.push_back({"PUT", path, nameBody(fmt::format("Renamed {}", i)), 200});
    if (i % 10 == 0) requests.push_back({"DELETE", path, "", 200});
    if (i / options_.clients % 4 == 0) {
      const auto hot = fmt::format("{}/{}", kPath, hotSku(i / options_.clients / 4));
      requests.push_back({"PUT", hot, nameBody(fmt::format("hot {}", i)), 200});
    }
  }
  return requests;
}

void Traffic::pace() {
  const auto share = std::chrono::duration<double>(options_.duration) / planned_;
  const auto due = start_ + std::chrono::duration_cast<std::chrono::nanoseconds>(share * sent_++);
  while (!stop_ && !interrupted()) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= due) return;
    const std::chrono::nanoseconds most = std::chrono::milliseconds(50);
    std::this_thread::sleep_for(std::min(most, std::chrono::nanoseconds(due - now)));
  }
}

void Traffic::work(int client) {
  auto http = connectTo(options_.port);
  for (const auto& request : plans_[static_cast<std::size_t>(client)]) {
    pace();
    if (stop_ || interrupted()) break;
    httplib::Request out;
    out.method = request.method;
    out.path = request.path;
    out.body = request.body;
    out.set_header("Content-Type", "application/json");
    const auto answer = http.send(out);
    if (answer && answer->status == request.expected) {
      ++succeeded_;
      continue;
    }
    const auto told = answer ? fmt::format("{} {}", answer->status, answer->body)
                             : httplib::to_string(answer.error());
    const std::lock_guard lock(mutex_);
    if (problem_.empty()) problem_ = fmt::format("{} {}: {}", request.method, request.path, told);
  }
  ++finished_;
}

std::string Traffic::problem() const {
  const std::lock_guard lock(mutex_);
  return problem_;
}

}  // namespace pillion::warehouse
