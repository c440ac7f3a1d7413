// ModelWeights: a model's weights in the layout that the device's products read: in device memory, or with
// its layers in host memory, from where each comes to the device whenever it is needed
// (exec/weight_stream.h).
//
// Loaded once, by several threads, straight from the source's encoded tensors; immutable and thread-safe
// afterwards. Owns its memory: one allocation on the device, and one on the host where layers lie there. The
// device must outlive it; the source need not.
#ifndef SPILLWAY_ENGINE_MODEL_WEIGHTS_H_
#define SPILLWAY_ENGINE_MODEL_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/model/model_config.h"
#include "engine/model/tensor_source.h"

namespace spillway::model {

// One layer. Biases are null where the family has none.
struct LayerWeights {
  device::DevicePtr attention_norm;       // f32 [d]
  device::DevicePtr attention_norm_bias;  // f32 [d]
  device::PackedMatrix qkv;               // [d_q + 2 * d_kv, d]: q | k | v
  device::DevicePtr qkv_bias;             // f32 [d_q + 2 * d_kv]
  device::PackedMatrix attention_output;  // [d, d_q]
  device::DevicePtr attention_output_bias;

  device::DevicePtr feed_forward_norm;       // f32 [d]
  device::DevicePtr feed_forward_norm_bias;  // f32 [d]
  device::PackedMatrix up;                   // gated: [2 * d_ff, d], gate | up; else [d_ff, d]
  device::DevicePtr up_bias;
  device::PackedMatrix down;  // [d, d_ff]
  device::DevicePtr down_bias;
};

// Where a layer's weights lie now.
class LayerSource {
 public:
  virtual ~LayerSource() = default;
  // Null where they are not on the device. Valid until the layer goes.
  virtual const LayerWeights* Find(int32_t layer) const = 0;
};

// kAuto: the host where the device is too small, and could be reached over a link.
enum class WeightPlace : uint8_t { kDevice, kHost, kAuto };

// Bytes of one purpose, for the memory table and metrics.
struct MemoryUse {
  std::string use;  // "weights: layers"
  int64_t bytes = 0;
};

struct WeightOptions {
  // Of the layers; embedding, head and the output's norm are always on the device.
  WeightPlace layers_on = WeightPlace::kDevice;
  // Of a device memory of so many bytes, what must be left for what comes after. What is too large together
  // is refused before anything is loaded. Empty: whatever is left.
  std::function<int64_t(int64_t memory_bytes)> reserve = nullptr;
  device::WeightMode mode = device::WeightMode::kExpanded;
  int32_t numa_node = -1;  // that layers on the host come from first; -1: wherever the kernel gives memory
  int32_t threads = 0;     // of loading; 0: as LoadingThreads
  // Told bytes of the device's layout that are done, of how many; called from the loading threads, one at a
  // time, with rising numbers.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
};

// Those that `options` say; else as many as a CPU device computes with, or where others compute this
// process's cores, up to eight: each holds what it is packing.
int32_t LoadingThreads(const device::DeviceInfo& info, const WeightOptions& options);

class ModelWeights final : public LayerSource {
 public:
  // Packs the tensors of `source` that `config` implies. InvalidArgument for a tensor that the device cannot
  // hold or multiply, ResourceExhausted where memory is too small, naming how much would do.
  static absl::StatusOr<std::unique_ptr<ModelWeights>> Load(device::Device& device,
                                                            const TensorSource& source,
                                                            const ModelConfig& config,
                                                            const WeightOptions& options);
  ~ModelWeights() override;
  ModelWeights(const ModelWeights&) = delete;
  ModelWeights& operator=(const ModelWeights&) = delete;

  // What the layers are; where they lie only without layers_on_host().
  const std::vector<LayerWeights>& layers() const { return layers_; }
  // Null with layers_on_host().
  const LayerWeights* Find(int32_t layer) const override {
    return layers_on_host() ? nullptr : &layers_[static_cast<size_t>(layer)];
  }

  // --- Layers on the host: each is one run of bytes there, and works wherever the same bytes are copied to.
  bool layers_on_host() const { return host_ != nullptr; }
  const uint8_t* HostLayer(int32_t layer) const { return host_ + RunOf(layer).offset_bytes; }
  int64_t LayerBytes(int32_t layer) const { return RunOf(layer).size_bytes; }
  int64_t largest_layer_bytes() const;
  int64_t host_bytes() const { return host_bytes_; }
  bool host_registered() const { return registered_; }  // with the device: copies run at full rate
  // The layer whose bytes begin at `base`, which is aligned as Device::Allocate aligns.
  LayerWeights LayerAt(int32_t layer, device::DevicePtr base) const;

  const device::PackedMatrix& embedding() const { return embedding_; }          // [vocab, d], a table
  device::DevicePtr position_embedding() const { return position_embedding_; }  // T [context, d] or null
  device::DevicePtr inverse_frequency() const { return inverse_frequency_; }    // f32 [rope.dims / 2]
  device::DevicePtr output_norm() const { return output_norm_; }                // f32 [d]
  device::DevicePtr output_norm_bias() const { return output_norm_bias_; }      // f32 [d] or null
  const device::PackedMatrix& head() const { return head_; }  // [vocab, d]; of a tied one perhaps embedding()

  int64_t allocated_bytes() const { return allocated_bytes_; }  // on the device
  // Bytes that every decode step reads: all matrices and norms, the head included, an embedding that is no
  // head not.
  int64_t read_bytes_per_step() const { return read_bytes_per_step_; }
  // Of matrices, and of the embedding, that stay packed as the source encodes them, and of those that do not.
  int64_t packed_bytes() const { return packed_bytes_; }
  int64_t plain_bytes() const { return plain_bytes_; }
  // By use; adds up to allocated_bytes() + host_bytes().
  const std::vector<MemoryUse>& memory() const { return memory_; }

 private:
  friend class WeightLoader;

  struct Run {
    int64_t offset_bytes = 0;  // of host_
    int64_t size_bytes = 0;
  };

  explicit ModelWeights(device::Device& device) : device_(device) {}
  absl::Status PlaceEnds(const ModelConfig& config, class WeightLoader& loader);
  absl::Status Place(const ModelConfig& config, WeightPlace layers_on, class WeightLoader& loader);
  const Run& RunOf(int32_t layer) const { return runs_[static_cast<size_t>(layer)]; }

  device::Device& device_;
  device::DevicePtr arena_;
  uint8_t* host_ = nullptr;  // mapped
  int64_t host_bytes_ = 0;
  bool registered_ = false;
  std::vector<Run> runs_;  // [n_layers] of layers on the host
  int64_t allocated_bytes_ = 0;
  int64_t read_bytes_per_step_ = 0;
  int64_t packed_bytes_ = 0;
  int64_t plain_bytes_ = 0;
  std::vector<MemoryUse> memory_;

  std::vector<LayerWeights> layers_;  // [n_layers]
  device::PackedMatrix embedding_;
  device::DevicePtr position_embedding_;
  device::DevicePtr inverse_frequency_;
  device::DevicePtr output_norm_;
  device::DevicePtr output_norm_bias_;
  device::PackedMatrix head_;
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_WEIGHTS_H_
