// The customers: threads that create, change and delete products through REST, at an even pace.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace pillion::warehouse {

struct TrafficOptions {
  int port = 0;
  int products = 3000;
  int clients = 4;
  std::chrono::milliseconds duration{8000};  // the work is spread over it, or takes longer
};

class Traffic {
 public:
  explicit Traffic(TrafficOptions options);
  ~Traffic();
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  // Requests planned, sent, answered with success.
  int planned() const { return planned_; }
  int succeeded() const { return succeeded_; }
  bool finished() const { return finished_ == options_.clients; }

  // Empty, or what the first request that did not succeed was told.
  std::string problem() const;

 private:
  struct Request {
    const char* method;
    std::string path;
    std::string body;
    int expected;
  };
  std::vector<Request> plan(int client) const;
  void work(int client);
  void pace();

  TrafficOptions options_;
  int planned_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::atomic<int> sent_{0};
  std::atomic<int> succeeded_{0};
  std::atomic<int> finished_{0};
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::string problem_;
  std::vector<std::vector<Request>> plans_;
  std::vector<std::thread> threads_;
};

}  // namespace pillion::warehouse
