// Delivery: one thread between the step thread and the network. The step thread only says which calls have
// something to send; writing to sockets happens here (and, where a write was in flight, on the gRPC thread
// that finished it). So a step never pays for the network, and the tokens of one step leave together.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_DELIVERY_H_
#define SPILLWAY_SERVER_DELIVERY_H_

#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace spillway::server {

// A call whose stream may have something to send.
class Deliverable {
 public:
  virtual ~Deliverable() = default;
  // Takes what waits and starts sending it, unless a write is in flight. Any thread; never blocks.
  virtual void Pump() = 0;
};

class Delivery {
 public:
  Delivery();
  // Pumps what is left, then joins.
  ~Delivery();
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  // A short lock; wakes the thread if it sleeps. The list is bounded by the calls there are: a stream says
  // that it is ready once until it is emptied.
  void Notify(std::shared_ptr<Deliverable> call);

 private:
  void Work();

  Mutex mutex_;
  CondVar changed_;
  std::vector<std::shared_ptr<Deliverable>> ready_ ABSL_GUARDED_BY(mutex_);
  bool sleeping_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_DELIVERY_H_
