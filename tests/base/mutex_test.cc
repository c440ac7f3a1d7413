#include "base/mutex.h"

#include <pthread.h>
#include <time.h>

#include <cerrno>
#include <chrono>

#include "gtest/gtest.h"

// ThreadSanitizer has waits of its own (base/mutex.h).
#ifndef __SANITIZE_THREAD__

namespace {

// The clock of the process's last timed wait; -1: none.
clockid_t last_clock = -1;

}  // namespace

// In place of the C library's. They say which clock they were asked to wait by, and that the time has passed.
extern "C" int pthread_cond_clockwait(pthread_cond_t* /*condition*/, pthread_mutex_t* /*mutex*/,
                                      clockid_t clock, const timespec* /*until*/) {
  last_clock = clock;
  return ETIMEDOUT;
}
extern "C" int pthread_cond_timedwait(pthread_cond_t* /*condition*/, pthread_mutex_t* /*mutex*/,
                                      const timespec* /*until*/) {
  last_clock = CLOCK_REALTIME;
  return ETIMEDOUT;
}

namespace spillway {
namespace {

TEST(CondVar, AStepOfTheWallClockDoesNotMoveATimedWait) {
  Mutex mutex;
  CondVar changed;
  MutexLock lock(mutex);
  while (changed.WaitFor(mutex, std::chrono::microseconds(1))) {
  }
  EXPECT_EQ(last_clock, CLOCK_MONOTONIC);
}

}  // namespace
}  // namespace spillway

#endif
