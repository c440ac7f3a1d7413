#include "server/delivery.h"

#include <utility>

namespace spillway::server {

Delivery::Delivery() : thread_([this] { Work(); }) {}

Delivery::~Delivery() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void Delivery::Notify(std::shared_ptr<Deliverable> call) {
  bool wake = false;
  {
    MutexLock lock(mutex_);
    ready_.push_back(std::move(call));
    wake = std::exchange(sleeping_, false);
  }
  // A wake is a system call: one for all that a step made ready.
  if (wake) changed_.NotifyOne();
}

void Delivery::Work() {
  std::vector<std::shared_ptr<Deliverable>> batch;
  while (true) {
    {
      MutexLock lock(mutex_);
      while (ready_.empty()) {
        if (stopping_) return;
        sleeping_ = true;
        changed_.Wait(mutex_);
      }
      sleeping_ = false;
      batch.swap(ready_);
    }
    for (std::shared_ptr<Deliverable>& call : batch) {
      call->Pump();
      call.reset();
    }
    batch.clear();
  }
}

}  // namespace spillway::server
