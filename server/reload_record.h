// ReloadRecord: what became of files that are looked at again and again while the daemon serves. An error
// counts when two looks in a row saw it: files are written in parts, and pairs one after the other.
//
// Thread-safe; looks come one at a time.
#ifndef SPILLWAY_SERVER_RELOAD_RECORD_H_
#define SPILLWAY_SERVER_RELOAD_RECORD_H_

#include <string>

#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "server/security_counts.h"

namespace spillway::server {

class ReloadRecord {
 public:
  // The files say what is in effect.
  void OnSame() { Settle(/*taken=*/0); }
  // They said something else, which is in effect now.
  void OnTaken() { Settle(/*taken=*/1); }
  // They cannot be used; what was in effect stays. True when that is to be said, once for each error.
  bool OnBad(absl::string_view error) {
    MutexLock lock(mutex_);
    if (error == said_) return false;
    if (error != doubted_) {
      doubted_ = std::string(error);
      return false;
    }
    said_ = doubted_;
    ++counts_.refused;
    counts_.stale = true;
    return true;
  }

  ReloadCounts counts() const {
    MutexLock lock(mutex_);
    return counts_;
  }

 private:
  void Settle(int taken) {
    MutexLock lock(mutex_);
    doubted_.clear();
    said_.clear();
    counts_.taken += taken;
    counts_.stale = false;
  }

  mutable Mutex mutex_;
  std::string doubted_ ABSL_GUARDED_BY(mutex_);
  std::string said_ ABSL_GUARDED_BY(mutex_);
  ReloadCounts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_RELOAD_RECORD_H_
