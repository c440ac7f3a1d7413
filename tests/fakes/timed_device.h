// A device whose time is a formula: copies and operations take what its rates say, on streams of simulated
// time, and compute nothing. For tests of what measures a device: the truth is known.
#ifndef SPILLWAY_TESTS_FAKES_TIMED_DEVICE_H_
#define SPILLWAY_TESTS_FAKES_TIMED_DEVICE_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "base/clock.h"
#include "tests/fakes/forwarding_device.h"

namespace spillway::fakes {

struct TimedRates {
  double link_in_bytes_per_s = 1e9;
  double link_out_bytes_per_s = 0.8e9;
  double copy_overhead_s = 10e-6;  // of a copy, or of a batch
  double pageable_factor = 1;      // copies of host memory that is not registered take longer
  double flop_per_s = 1e12;
  double weight_bytes_per_s = 100e9;  // what a product takes at least: its matrix is read
  double read_s = 20e-9;              // attention, a read
  double op_s = 2e-6;                 // every operation takes at least this
  double busy_link_factor = 1;        // compute takes longer while a copy in is under way
  double noise = 0;                   // times 1 +- this, uniformly
  double outlier_share = 0;           // of the work, which takes five times as long
  double stall_after_s = std::numeric_limits<double>::infinity();  // nothing ends after this
};

// Weights and memory are those of `target`, a device in host memory.
class TimedDevice : public device::ForwardingDevice {
 public:
  TimedDevice(device::Device& target, const TimedRates& rates, const Clock& clock)
      : ForwardingDevice(target), rates_(rates), clock_(clock), info_(target.info()) {
    info_.kind = "timed";
    info_.name = "timed device";
    info_.link = "formula";
    info_.host_addressable = false;
  }

  // Without a clock to set Synchronize returns at once; with it, it is `clock` that waits.
  void SetHostClock(ManualClock* clock) { host_clock_ = clock; }
  int64_t peak_bytes() const { return peak_bytes_; }

  const device::DeviceInfo& info() const override { return info_; }
  absl::StatusOr<device::DevicePtr> Allocate(int64_t size_bytes, absl::string_view what) override {
    auto allocated = ForwardingDevice::Allocate(size_bytes, what);
    peak_bytes_ = std::max(peak_bytes_, allocated_bytes());
    return allocated;
  }

  absl::Status RegisterHost(void* data, int64_t size_bytes) override {
    registered_[reinterpret_cast<uint64_t>(data)] = size_bytes;
    return absl::OkStatus();
  }
  void UnregisterHost(void* data) override { registered_.erase(reinterpret_cast<uint64_t>(data)); }

  device::StreamId CreateStream(absl::string_view) override {
    streams_.push_back(0);
    return static_cast<device::StreamId>(streams_.size() - 1);
  }
  device::EventId CreateEvent() override {
    events_.push_back(-1);
    return static_cast<device::EventId>(events_.size() - 1);
  }
  void Record(device::EventId event, device::StreamId stream) override {
    EventTime(event) = std::max(Ready(stream), Now());
  }
  void Wait(device::StreamId stream, device::EventId event) override {
    Ready(stream) = std::max(Ready(stream), EventTime(event));
  }
  bool IsComplete(device::EventId event) override {
    return EventTime(event) <= Now() && EventTime(event) < rates_.stall_after_s;
  }
  absl::Status Synchronize(device::EventId event) override {
    const double wait_s = EventTime(event) - Now();
    if (host_clock_ != nullptr && wait_s > 0) {
      host_clock_->AdvanceNs(static_cast<int64_t>(std::ceil(wait_s * 1e9)));
    }
    return absl::OkStatus();
  }
  int64_t ElapsedNs(device::EventId begin, device::EventId end) override {
    return static_cast<int64_t>((EventTime(end) - EventTime(begin)) * 1e9);
  }

  void CopyIn(device::StreamId stream, device::DevicePtr destination, const void* source,
              int64_t size_bytes) override {
    // Tables are read by operations; bulk is not.
    if (size_bytes < (1 << 16)) {
      std::memcpy(reinterpret_cast<void*>(destination.address), source, static_cast<size_t>(size_bytes));
    }
    Copy(stream, link_in_, size_bytes, rates_.link_in_bytes_per_s / FactorOf(source), rates_.copy_overhead_s);
  }
  void CopyOut(device::StreamId stream, void* destination, device::DevicePtr, int64_t size_bytes) override {
    Copy(stream, link_out_, size_bytes, rates_.link_out_bytes_per_s / FactorOf(destination),
         rates_.copy_overhead_s);
  }
  void CopyInBatch(device::StreamId stream, absl::Span<const device::CopyRun> runs) override {
    double overhead_s = rates_.copy_overhead_s;
    for (const device::CopyRun& run : runs) {
      Copy(stream, link_in_, run.size_bytes, rates_.link_in_bytes_per_s / FactorOf(run.host), overhead_s);
      overhead_s = 0;
    }
  }
  void CopyOutBatch(device::StreamId stream, absl::Span<const device::CopyRun> runs) override {
    double overhead_s = rates_.copy_overhead_s;
    for (const device::CopyRun& run : runs) {
      Copy(stream, link_out_, run.size_bytes, rates_.link_out_bytes_per_s / FactorOf(run.host), overhead_s);
      overhead_s = 0;
    }
  }

  void Gemm(device::StreamId stream, const device::PackedMatrix& weight,
            const device::GemmArgs& args) override {
    Compute(stream, std::max(2.0 * args.rows * static_cast<double>(weight.n * weight.k) / rates_.flop_per_s,
                             static_cast<double>(weight.size_bytes) / rates_.weight_bytes_per_s));
  }
  void PartialAttention(device::StreamId stream, const device::PartialAttentionArgs& args) override {
    double reads = 0;
    const auto* sequences = reinterpret_cast<const device::AttentionSequence*>(args.sequences.address);
    for (int32_t s = 0; s < args.n_sequences; ++s) {
      reads += 1.0 * sequences[s].n_rows * (sequences[s].key_end - sequences[s].key_begin);
    }
    Compute(stream, reads * rates_.read_s);
  }
  void Embed(device::StreamId stream, const device::EmbedArgs&) override { Compute(stream, 0); }
  void AddNorm(device::StreamId stream, const device::AddNormArgs&) override { Compute(stream, 0); }
  void RopeAppend(device::StreamId stream, const device::RopeAppendArgs&) override { Compute(stream, 0); }
  void MergeAttention(device::StreamId stream, const device::MergeAttentionArgs&) override {
    Compute(stream, 0);
  }
  void GatedActivation(device::StreamId stream, const device::GatedActivationArgs&) override {
    Compute(stream, 0);
  }
  void Sample(device::StreamId stream, const device::SampleArgs&) override { Compute(stream, 0); }

 private:
  double FactorOf(const void* host) const {
    const auto address = reinterpret_cast<uint64_t>(host);
    const auto after = registered_.upper_bound(address);
    const bool is_registered =
        after != registered_.begin() &&
        address < std::prev(after)->first + static_cast<uint64_t>(std::prev(after)->second);
    return is_registered ? 1 : rates_.pageable_factor;
  }
  double Now() const { return ToSeconds(clock_.NowNs()); }
  double& Ready(device::StreamId stream) { return streams_[static_cast<size_t>(stream)]; }
  double& EventTime(device::EventId event) { return events_[static_cast<size_t>(event)]; }
  double Noisy(double seconds) {
    std::uniform_real_distribution<double> unit(0, 1);
    const double factor = 1 + rates_.noise * (2 * unit(random_) - 1);
    return seconds * factor * (unit(random_) < rates_.outlier_share ? 5 : 1);
  }
  void Compute(device::StreamId stream, double seconds) {
    const double start_s = std::max(Ready(stream), Now());
    // As it is when the work is enqueued: later copies are not known yet.
    const double factor = link_in_ > Now() ? rates_.busy_link_factor : 1;
    Ready(stream) = start_s + Noisy(std::max(seconds, rates_.op_s) * factor);
  }
  void Copy(device::StreamId stream, double& link_free_s, int64_t size_bytes, double bytes_per_s,
            double overhead_s) {
    const double start_s = std::max({Ready(stream), Now(), link_free_s});
    link_free_s = start_s + Noisy(overhead_s + static_cast<double>(size_bytes) / bytes_per_s);
    Ready(stream) = link_free_s;
  }

  const TimedRates rates_;
  const Clock& clock_;
  device::DeviceInfo info_;
  std::vector<double> streams_;  // when each has done what was enqueued
  std::vector<double> events_;
  double link_in_ = 0;  // when each direction is free
  double link_out_ = 0;
  ManualClock* host_clock_ = nullptr;
  int64_t peak_bytes_ = 0;
  std::map<uint64_t, int64_t> registered_;
  std::mt19937_64 random_{1};
};

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_TIMED_DEVICE_H_
