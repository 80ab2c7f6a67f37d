#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

struct pollfd;

namespace pillion::support {

// A TCP proxy on 127.0.0.1 that plays a faulty network between a client and a server. Each method
// has taken effect when it returns; all may be called from any thread.
class TcpGate {
 public:
  explicit TcpGate(int targetPort);
  TcpGate(const TcpGate&) = delete;
  TcpGate& operator=(const TcpGate&) = delete;
  ~TcpGate();

  int port() const { return port_; }

  // Back to normal: accepts and forwards, without delay.
  void pass();
  // New connections are refused; those that exist go on.
  void refuse();
  // Resets all connections, on both sides; new ones are accepted.
  void cut();
  // Nothing is forwarded and nothing is closed, as when a cable is pulled; connections that are
  // made meanwhile get no answer.
  void stall();
  // Holds everything back for so long, in each direction.
  void delay(std::chrono::milliseconds time);

  int connections();
  long accepted() const { return accepted_; }  // since the beginning

 private:
  using Clock = std::chrono::steady_clock;

  struct Chunk {
    Clock::time_point due;
    std::string bytes;
  };
  // One direction of a connection.
  struct Pipe {
    std::deque<Chunk> chunks;
    std::size_t size = 0;
    bool ended = false;     // the sender will send no more
    bool shutDown = false;  // and the receiver knows
  };
  struct Link {
    int client = -1;
    int server = -1;
    Pipe toServer;
    Pipe toClient;
    bool broken = false;
  };

  void onLoop(std::function<void()> action);
  void loop();
  void runActions();
  int waitForEvents(std::vector<pollfd>& events);
  void listen();
  void stopListening();
  void acceptAll();
  void serve(Link& link, short clientEvents, short serverEvents);
  void receive(Link& link, int from, Pipe& pipe);
  void forward(Link& link, int to, Pipe& pipe);
  static void reset(Link& link);
  int millisecondsToNextChunk() const;

  int target_;
  int port_;
  int wake_ = -1;
  std::atomic<long> accepted_{0};

  std::mutex mutex_;
  std::vector<std::packaged_task<void()>> actions_;
  bool ending_ = false;

  // Touched by the loop's thread only.
  int listener_ = -1;
  std::list<Link> links_;
  bool stalled_ = false;
  std::chrono::milliseconds delay_{0};

  std::thread thread_;
};

}  // namespace pillion::support
