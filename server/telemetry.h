// What the scheduler's observer is in the daemon: metrics, and a log line for every finished request.
#ifndef SPILLWAY_SERVER_TELEMETRY_H_
#define SPILLWAY_SERVER_TELEMETRY_H_

#include "server/metrics.h"
#include "server/request_log.h"

namespace spillway::server {

// Thread-safe.
class Telemetry final : public Metrics {
 public:
  void OnFinished(const scheduler::RequestRecord& record) override {
    Metrics::OnFinished(record);
    log_.Add(record);
  }

 private:
  RequestLog log_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TELEMETRY_H_
