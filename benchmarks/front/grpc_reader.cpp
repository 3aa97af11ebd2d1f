// Reading over gRPC: the generated asynchronous stub, one completion queue, several channels.
#include <grpcpp/grpcpp.h>
#include <poll.h>

#include <chrono>
#include <vector>

#include "fathom/v1/inference.grpc.pb.h"
#include "reader.h"

namespace fathom::bench {
namespace {

constexpr int32_t kStreamsPerChannel = 32;
constexpr int32_t kEventsBetweenLooks = 256;  // at the control socket

// One answer under way.
class Call {
 public:
  void start(v1::Inference::Stub& stub, bool chat, int32_t tokens, uint64_t seed,
             grpc::CompletionQueue& queue) {
    reader_.reset();  // it lies in its context's memory
    context_ = std::make_unique<grpc::ClientContext>();
    expected_ = tokens;
    tokens_ = 0;
    step_ = Step::kStart;
    length_seen_ = finished_seen_ = false;
    if (chat) {
      v1::ChatRequest request;
      v1::Message* message = request.add_messages();
      message->set_role(v1::ROLE_USER);
      message->set_content("Tell me a story.");
      fill(*request.mutable_sampling(), seed);
      reader_ = stub.AsyncChat(context_.get(), request, &queue, this);
    } else {
      v1::CompleteRequest request;
      request.add_prompts()->set_text("Once upon a time there was a fox in the wood.");
      fill(*request.mutable_sampling(), seed);
      reader_ = stub.AsyncComplete(context_.get(), request, &queue, this);
    }
  }

  // What the queue said of the last operation; the number of tokens that it brought.
  int32_t advance(bool ok) {
    int32_t tokens = 0;
    if (step_ == Step::kFinish) {
      step_ = Step::kDone;
      return 0;
    }
    if (step_ == Step::kRead && ok) tokens = take_event();
    if (ok) {
      step_ = Step::kRead;
      reader_->Read(&event_, this);
    } else {
      step_ = Step::kFinish;
      reader_->Finish(&status_, this);
    }
    return tokens;
  }

  bool done() const { return step_ == Step::kDone; }

  std::string fault() const {
    if (!status_.ok()) return "a call ended with: " + status_.error_message();
    if (tokens_ != expected_) {
      return "an answer of " + std::to_string(tokens_) + " events, not " +
             std::to_string(expected_);
    }
    return length_seen_ && finished_seen_ ? "" : "a stream without its end";
  }

 private:
  enum class Step { kStart, kRead, kFinish, kDone };

  void fill(v1::Sampling& sampling, uint64_t seed) const {
    sampling.set_max_tokens(static_cast<uint32_t>(expected_));
    sampling.set_ignore_eos(true);
    sampling.set_seed(seed);
  }

  int32_t take_event() {
    if (event_.has_choice_finished()) {
      length_seen_ = event_.choice_finished().reason() == v1::FINISH_REASON_LENGTH;
    }
    if (event_.has_finished()) finished_seen_ = true;
    if (!event_.has_delta()) return 0;
    ++tokens_;
    return 1;
  }

  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerationEvent>> reader_;
  v1::GenerationEvent event_;
  grpc::Status status_;
  Step step_ = Step::kStart;
  int32_t expected_ = 0;
  int32_t tokens_ = 0;
  bool length_seen_ = false;
  bool finished_seen_ = false;
};

class GrpcReader {
 public:
  GrpcReader(const ReadOrder& order, TokenGate& gate)
      : order_(order), gate_(gate), lengths_(order.tokens_min, order.tokens_max) {}

  ReadReport run(int control) {
    calls_.resize(static_cast<size_t>(order_.streams));
    for (size_t i = 0; i < calls_.size(); ++i) {
      if (i % kStreamsPerChannel == 0) add_channel();
      ask(i);
    }
    int32_t looked = 0;
    while (under_way_ > 0 && !report_.failed()) {
      void* tag = nullptr;
      bool ok = false;
      const auto bound = std::chrono::system_clock::now() + std::chrono::milliseconds(20);
      const auto next = queue_.AsyncNext(&tag, &ok, bound);
      if (next == grpc::CompletionQueue::GOT_EVENT) serve(static_cast<Call*>(tag), ok);
      if (next != grpc::CompletionQueue::TIMEOUT && ++looked < kEventsBetweenLooks) continue;
      looked = 0;
      pollfd entry{control, POLLIN, 0};
      if (::poll(&entry, 1, 0) > 0) stopping_ = true;
    }
    return report_;
  }

 private:
  // A subchannel pool of its own makes a connection of its own.
  void add_channel() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const std::string address = "127.0.0.1:" + std::to_string(order_.port);
    stubs_.push_back(v1::Inference::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)));
  }

  void ask(size_t index) {
    ++under_way_;
    calls_[index].start(*stubs_[index / kStreamsPerChannel], order_.chat, lengths_.next(), ++asked_,
                        queue_);
  }

  void serve(Call* call, bool ok) {
    const int32_t tokens = call->advance(ok);
    if (tokens > 0) gate_.arrived(static_cast<uint64_t>(tokens), 1);
    if (!call->done()) return;
    --under_way_;
    if (const std::string fault = call->fault(); !fault.empty()) return report_.fail(fault);
    ++report_.answers;
    if (!stopping_) ask(static_cast<size_t>(call - calls_.data()));
  }

  const ReadOrder order_;
  TokenGate& gate_;
  AnswerLengths lengths_;
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  std::vector<Call> calls_;  // before the queue's end no call is moved
  ReadReport report_;
  uint64_t asked_ = 0;
  int32_t under_way_ = 0;
  bool stopping_ = false;
};

}  // namespace

ReadReport read_grpc(const ReadOrder& order, TokenGate& gate, int control) {
  return GrpcReader(order, gate).run(control);
}

}  // namespace fathom::bench
