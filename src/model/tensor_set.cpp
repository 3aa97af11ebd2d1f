// A checkpoint's tensors against the expected ones.
#include "model/tensor_set.h"

#include <unordered_set>

#include "base/log.h"

namespace fathom {
namespace {

constexpr size_t kUnknownNamesLogged = 8;

std::string shape_text(const int64_t* shape, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Status check_one(const ExpectedTensor& expected, const WeightSource& source) {
  if (!source.has(expected.name)) {
    return not_found("the checkpoint has no tensor " + expected.name).about(expected.name);
  }
  FATHOM_ASSIGN(const Tensor info, source.info(expected.name));
  const std::vector<int64_t> shape(info.shape.begin(), info.shape.begin() + info.rank);
  if (shape == expected.shape) return Status::ok();
  return data_loss("tensor " + expected.name + " is " + shape_text(shape.data(), shape.size()) +
                   ", config.json asks for " +
                   shape_text(expected.shape.data(), expected.shape.size()))
      .about(expected.name);
}

}  // namespace

std::string layer_prefix(int32_t layer) { return "model.layers." + std::to_string(layer) + "."; }

void visit_mlp(const std::string& at, int64_t hidden, int64_t width, const TensorVisitor& visit) {
  visit({at + "gate_proj.weight", {width, hidden}});
  visit({at + "up_proj.weight", {width, hidden}});
  visit({at + "down_proj.weight", {hidden, width}});
}

int64_t element_count(const TensorList& expected) {
  int64_t count = 0;
  expected([&](const ExpectedTensor& tensor) {
    int64_t n = 1;
    for (const int64_t size : tensor.shape) n *= size;
    count += n;
  });
  return count;
}

int64_t stored_bytes(const TensorList& expected, const WeightSource& source) {
  int64_t bytes = 0;
  expected([&](const ExpectedTensor& tensor) {
    const auto info = source.info(tensor.name);
    if (info.is_ok()) bytes += info->bytes();
  });
  return bytes;
}

Status check_tensor_set(const TensorList& expected, const WeightSource& source,
                        const std::function<bool(const std::string&)>& is_tolerated) {
  Status status;
  std::unordered_set<std::string> known;
  expected([&](const ExpectedTensor& tensor) {
    if (status.is_ok()) status = check_one(tensor, source);
    known.insert(tensor.name);
  });
  FATHOM_RETURN_IF_ERROR(status);
  size_t unknown = 0;
  std::string first;
  for (const std::string& name : source.names()) {
    const std::string suffix = "_scale_inv";
    const std::string base =
        name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name;
    const bool buffer = name.find("rotary_emb.inv_freq") != std::string::npos;
    if (known.contains(base) || buffer || name == "lm_head.weight" || is_tolerated(name)) continue;
    if (unknown++ < kUnknownNamesLogged) first += (first.empty() ? "" : ", ") + name;
  }
  if (unknown > 0) {
    Logger("model").warn("the checkpoint holds tensors that the model does not use",
                         {{"count", unknown}, {"first", first}});
  }
  return Status::ok();
}

}  // namespace fathom
