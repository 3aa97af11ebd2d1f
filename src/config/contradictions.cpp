// Settings that are each in range and cannot hold together.
#include <algorithm>
#include <array>
#include <bit>

#include "config/config.h"

namespace fathom {
namespace {

Status contradiction(const std::string& setting, const std::string& sentence) {
  return invalid_argument(sentence).about(setting);
}

Status check_tls(const Config& config) {
  const SecurityConfig& s = config.security;
  if (s.tls_cert.empty() != s.tls_key.empty()) {
    return contradiction("tls_key", "tls_cert and tls_key go together: give both or neither");
  }
  if (!s.tls_client_ca.empty() && s.tls_cert.empty()) {
    return contradiction("tls_client_ca", "tls_client_ca needs tls_cert and tls_key");
  }
  return Status::ok();
}

// TLS covers the data listeners alone: admin and metrics speak plaintext.
Status check_plaintext(const Config& config) {
  if (config.security.allow_plaintext) return Status::ok();
  if (config.security.tls_cert.empty() && !is_loopback(config.server.host)) {
    return contradiction("host", "host " + config.server.host +
                                     " is not loopback: it needs tls_cert and tls_key, or "
                                     "allow_plaintext");
  }
  const std::array<std::pair<const char*, const std::string*>, 2> hosts = {{
      {"admin_host", &config.server.admin_host},
      {"metrics_host", &config.server.metrics_host},
  }};
  for (const auto& [name, host] : hosts) {
    if (is_loopback(*host)) continue;
    return contradiction(name, std::string(name) + " " + *host +
                                   " is not loopback, and this listener is plaintext: it needs "
                                   "allow_plaintext");
  }
  return Status::ok();
}

Status check_ports(const Config& config) {
  const ServerConfig& s = config.server;
  struct Listener {
    const char* name;
    const std::string* host;
    int64_t port;
  };
  const std::array<Listener, 4> listeners = {{{"port", &s.host, s.port},
                                              {"grpc_port", &s.host, s.grpc_port},
                                              {"admin_port", &s.admin_host, s.admin_port},
                                              {"metrics_port", &s.metrics_host, s.metrics_port}}};
  for (size_t i = 0; i < listeners.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const Listener &a = listeners[j], &b = listeners[i];
      if (a.port == 0 || a.port != b.port || *a.host != *b.host) continue;
      return contradiction(
          b.name, std::string(a.name) + " and " + b.name + " are both " + std::to_string(b.port));
    }
  }
  return Status::ok();
}

// dtype and kv_cache_dtype state what numerics computes in; only a cache of e4m3 is a choice.
Status check_dtypes(const Config& config) {
  const bool native = config.engine.numerics == Numerics::kNative;
  const DtypeChoice wrong = native ? DtypeChoice::kFloat32 : DtypeChoice::kBfloat16;
  const std::string sentence =
      native ? " float32 needs numerics reference" : " bfloat16 needs numerics native";
  if (config.model.dtype == wrong) return contradiction("dtype", "dtype" + sentence);
  const KvDtypeChoice cache = config.kv.kv_cache_dtype;
  if (cache == (native ? KvDtypeChoice::kFloat32 : KvDtypeChoice::kBfloat16)) {
    return contradiction("kv_cache_dtype", "kv_cache_dtype" + sentence);
  }
  if (cache == KvDtypeChoice::kFp8 && !native) {
    return contradiction("kv_cache_dtype", "kv_cache_dtype fp8 needs numerics native");
  }
  return Status::ok();
}

Status check_step(const Config& config) {
  const SchedulerConfig& s = config.scheduler;
  const int64_t block = config.kv.block_size;
  if (!std::has_single_bit(static_cast<uint64_t>(block))) {
    return contradiction("block_size",
                         "block_size " + std::to_string(block) + " must be a power of two");
  }
  if (s.prefill_chunk_tokens && *s.prefill_chunk_tokens < block) {
    return contradiction("prefill_chunk_tokens",
                         "prefill_chunk_tokens " + std::to_string(*s.prefill_chunk_tokens) +
                             " must be at least block_size, which is " + std::to_string(block));
  }
  if (!s.max_num_batched_tokens) return Status::ok();
  const int64_t least = std::max(block, s.max_num_seqs * (1 + config.engine.speculative_tokens));
  if (*s.max_num_batched_tokens < least) {
    return contradiction("max_num_batched_tokens",
                         "max_num_batched_tokens " + std::to_string(*s.max_num_batched_tokens) +
                             " must be at least " + std::to_string(least) +
                             ": a block, and a token (with its drafts) of each of max_num_seqs");
  }
  return Status::ok();
}

// A GPU's kernels read packed weights, and sum in an order of their own.
Status check_pack_weights(const Config& config) {
  const EngineConfig& e = config.engine;
  if (e.pack_weights != PackWeights::kOn) return Status::ok();
  const char* why = e.device == DeviceChoice::kCpu    ? "device cuda"
                    : e.numerics != Numerics::kNative ? "numerics native"
                    : e.deterministic                 ? "deterministic false"
                                                      : nullptr;
  if (why == nullptr) return Status::ok();
  return contradiction("pack_weights", std::string("pack_weights on needs ") + why);
}

// What this build can do; the keys are there so that other answers are refused by name.
Status check_parallel(const Config& config) {
  const ParallelConfig& p = config.parallel;
  if (p.data_parallel_size != 1) {
    return contradiction("data_parallel_size",
                         "data_parallel_size " + std::to_string(p.data_parallel_size) +
                             " is not supported by this build, which serves 1 replica: run several "
                             "servers behind a router");
  }
  if (!p.enable_expert_parallel && p.tensor_parallel_size > 1) {
    return contradiction(
        "enable_expert_parallel",
        "enable_expert_parallel false is not supported with tensor_parallel_size " +
            std::to_string(p.tensor_parallel_size) + ": ranks hold whole experts, which is true");
  }
  return Status::ok();
}

Status check_model(const Config& config) {
  if (config.model.load_format == LoadFormatChoice::kSynthetic && config.model.model.empty()) {
    return contradiction("load_format",
                         "load_format synthetic needs model: a directory with a "
                         "config.json");
  }
  return Status::ok();
}

}  // namespace

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

Status check_contradictions(const Config& config) {
  for (auto* check : {check_tls, check_plaintext, check_ports, check_dtypes, check_step,
                      check_pack_weights, check_parallel, check_model}) {
    FATHOM_RETURN_IF_ERROR(check(config));
  }
  return Status::ok();
}

}  // namespace fathom
