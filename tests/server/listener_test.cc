#include "server/listener.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/call_traffic.h"
#include "server/network_address.h"
#include "server/socket_facts.h"
#include "tests/server/harness.h"
#include "tests/server/raw_client.h"

namespace spillway::server {
namespace {

using ::testing::HasSubstr;
using Descriptor = Listener::Descriptor;

// The other side has closed.
bool IsClosed(const Descriptor& connection) {
  char byte = 0;
  const ssize_t got = recv(connection.get(), &byte, 1, 0);
  return got == 0 || (got < 0 && errno != EAGAIN);  // an end sets no errno
}

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 10'000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

// Holds what is accepted until it is told to let go. Outlives the listener, whose thread calls it.
class Holder {
 public:
  Listener::Take Take() {
    return [this](int /*listening*/, int connected) {
      MutexLock lock(mutex_);
      held_.emplace_back(connected);
    };
  }
  size_t size() {
    MutexLock lock(mutex_);
    return held_.size();
  }
  void LetGo() {
    MutexLock lock(mutex_);
    held_.clear();
  }
  int first() {
    MutexLock lock(mutex_);
    return held_.empty() ? -1 : held_.front().get();
  }

 private:
  Mutex mutex_;
  std::vector<Descriptor> held_ ABSL_GUARDED_BY(mutex_);
};

TEST(Listener, WhatIsBeyondTheLimitIsClosedUntilOthersLeave) {
  Holder holder;
  auto listener = Listener::Bind("127.0.0.1:0", 2);
  ASSERT_TRUE(listener.ok()) << listener.status();
  (*listener)->Start(holder.Take());
  const Descriptor a = ConnectTo((*listener)->address());
  const Descriptor b = ConnectTo((*listener)->address());
  ASSERT_TRUE(Eventually([&] { return holder.size() == 2; }));
  EXPECT_TRUE(IsClosed(ConnectTo((*listener)->address())));
  const ConnectionCounts full = (*listener)->Counts();
  EXPECT_EQ(full.open, 2);
  EXPECT_EQ(full.refused[static_cast<size_t>(ConnectionRefusal::kLimit)], 1);
  holder.LetGo();
  EXPECT_EQ((*listener)->Counts().open, 0);
  const Descriptor c = ConnectTo((*listener)->address());
  EXPECT_TRUE(Eventually([&] { return holder.size() == 1; }));
  EXPECT_EQ((*listener)->Counts().accepted, 3);
}

TEST(Listener, GoesOnAfterDescriptorsRanOut) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP()
      << "UndefinedBehaviorSanitizer reads what it doubts through a pipe, which cannot be had here: it "
         "then takes good objects for bad ones";
#endif
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  Holder holder;
  auto listener = Listener::Bind("127.0.0.1:0", 1'000'000);
  ASSERT_TRUE(listener.ok()) << listener.status();
  (*listener)->Start(holder.Take());
  // UndefinedBehaviorSanitizer looks at the first object of a class through a pipe, which soon cannot be had.
  EXPECT_GT(Clock::Real().NowNs(), 0);
  std::vector<Descriptor> all;
  for (int i = 0; i < 3; ++i) all.emplace_back(dup(0));
  const rlimit few{static_cast<rlim_t>(all.back().get()) + 1, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  for (Descriptor fd(dup(0)); fd.get() >= 0; fd = Descriptor(dup(0))) all.push_back(std::move(fd));
  // One for the client's end of a connection; there is none for the server's.
  all.pop_back();
  Descriptor victim = ConnectTo((*listener)->address());
  const bool turned_away = victim.get() >= 0 && IsClosed(victim);
  const ConnectionCounts counts = (*listener)->Counts();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  all.clear();
  EXPECT_TRUE(turned_away);
  EXPECT_GE(counts.refused[static_cast<size_t>(ConnectionRefusal::kDescriptors)], 1);
  EXPECT_EQ(counts.accepted, 0);
  const Descriptor late = ConnectTo((*listener)->address());
  EXPECT_TRUE(Eventually([&] { return holder.size() == 1; }));
}

TEST(Listener, WhatOthersLeaveIsTheReservesBeforeItIsAConnections) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "UndefinedBehaviorSanitizer needs a descriptor, and there is none here";
#endif
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto is_open = [](int fd) { return fcntl(fd, F_GETFD) >= 0; };
  Descriptor spare(dup(0));
  const int limit = spare.get() + 1;
  const Descriptor clients[] = {Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
                                Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  Holder holder;
  auto listener = Listener::Bind("127.0.0.1:0", 1'000'000);
  ASSERT_TRUE(listener.ok()) << listener.status();
  std::vector<int>
      own;  // the listener's, all beyond the limit that comes: once closed they are not had again
  for (int fd = clients[1].get() + 1; is_open(fd); ++fd) own.push_back(fd);
  ASSERT_GE(own.size(), 3U);
  (*listener)->Start(holder.Take());
  const rlimit few{static_cast<rlim_t>(limit), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<Descriptor> all;
  for (Descriptor fd(dup(0)); fd.get() >= 0; fd = Descriptor(dup(0))) all.push_back(std::move(fd));
  ConnectTo((*listener)->address(), 10, clients[0]);
  // The reserve was given up, and there is none in its place.
  const bool was_lost = Eventually([&] { return !std::all_of(own.begin(), own.end(), is_open); });
  spare.Close();
  const bool first_turned_away = IsClosed(clients[0]);
  ConnectTo((*listener)->address(), 10, clients[1]);
  const bool second_turned_away = IsClosed(clients[1]);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(was_lost);
  EXPECT_TRUE(first_turned_away) << "it waits";
  EXPECT_TRUE(second_turned_away);
  EXPECT_EQ(holder.size(), 0U);
  EXPECT_EQ((*listener)->Counts().refused[static_cast<size_t>(ConnectionRefusal::kDescriptors)], 2);
}

TEST(Listener, EveryAddressOfAHostIsListenedOn) {
  Holder holder;
  auto listener = Listener::Bind("localhost:0", 10);
  ASSERT_TRUE(listener.ok()) << listener.status();
  (*listener)->Start(holder.Take());
  const Descriptor client = ConnectTo((*listener)->address());
  EXPECT_TRUE(Eventually([&] { return holder.size() == 1; }));
}

TEST(Listener, WhatCannotBeBoundSaysWhy) {
  EXPECT_THAT(std::string(Listener::Bind("no.such.host.invalid:1", 10).status().message()),
              HasSubstr("no.such.host.invalid"));
  // A documentation address: of no machine.
  EXPECT_THAT(std::string(Listener::Bind("192.0.2.1:0", 10).status().message()),
              HasSubstr("cannot assign requested address"));
}

TEST(NetworkAddress, LoopbackIsWhatThisMachineAloneCanReach) {
  for (const char* address : {"127.0.0.1:8090", "127.8.9.1:0", "[::1]:8090", "localhost:8090"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address :
       {"0.0.0.0:8090", "192.0.2.1:8090", "[::]:8090", "[::ffff:10.0.0.1]:1", "no.such.host.invalid:1"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

TEST(Listener, TheLimitLeavesDescriptorsForOthers) {
  EXPECT_EQ(ConnectionLimit(1024, 1 << 20), 1024);
  EXPECT_LT(ConnectionLimit(1024, 1024), 1024);
  EXPECT_GT(ConnectionLimit(1024, 1024), 512);
  EXPECT_EQ(ConnectionLimit(1024, 10), 1) << "few, but not none";
}

// --- What a connection may send.

constexpr int64_t kMessageMax = 16 << 20;

// A look every 50 ms from one second to another, nothing else coming: whether all of them allow it.
bool AllowsThroughout(ByteAllowance& allowance, int64_t received, const CallTraffic::Account& account,
                      double from_s, double to_s) {
  for (double s = from_s; s < to_s; s += 0.05) {
    if (!allowance.Allows({.received = received}, account, s)) return false;
  }
  return true;
}

TEST(ByteAllowance, StepsOfCallsStartItAnew) {
  ByteAllowance allowance(kMessageMax, 0);
  EXPECT_TRUE(allowance.Allows({.received = 5000}, {}, 0)) << "a TLS handshake";
  EXPECT_TRUE(AllowsThroughout(allowance, 60'000, {}, 1, 10));
  EXPECT_FALSE(AllowsThroughout(allowance, 70'000, {}, 10, 11.5)) << "and no call";
  EXPECT_TRUE(allowance.Allows({.received = 80'000}, {.steps = 1}, 12));
  EXPECT_TRUE(AllowsThroughout(allowance, 330'000, {.steps = 1}, 12, 20));
  EXPECT_FALSE(AllowsThroughout(allowance, 350'000, {.steps = 1}, 20, 21.5));
  EXPECT_TRUE(AllowsThroughout(allowance, 350'000, {.steps = 2}, 21.5, 30));
}

// A thousand calls at once, or a long prompt, are read in a few milliseconds; the first of them begins when a
// thread comes to it.
TEST(ByteAllowance, CallsThatBeginLateAreWaitedFor) {
  ByteAllowance allowance(kMessageMax, 0);
  EXPECT_TRUE(AllowsThroughout(allowance, 200'000, {}, 3600, 3600.9)) << "idle for an hour before";
  EXPECT_FALSE(allowance.Allows({.received = 1'100'000}, {}, 3600.9)) << "more than any client has to say";
  EXPECT_TRUE(allowance.Allows({.received = 900'000}, {.steps = 1}, 3600.9));
  EXPECT_TRUE(AllowsThroughout(allowance, 1'700'000, {.steps = 1}, 3601, 3601.9))
      << "each step starts it anew";
  EXPECT_FALSE(allowance.Allows({.received = 1'700'000}, {.steps = 1}, 3602.1));
  EXPECT_TRUE(allowance.Allows({.received = 1'700'000}, {.steps = 2}, 3602.1));
  EXPECT_FALSE(allowance.Allows({.received = 7'000'000}, {.steps = 2}, 3602.2)) << "a flood is not";
}

TEST(ByteAllowance, MessagesMayComeInFrames) {
  ByteAllowance allowance(kMessageMax, 0);
  EXPECT_TRUE(allowance.Allows({}, {.steps = 1, .receiving = 1}, 0));
  EXPECT_TRUE(AllowsThroughout(allowance, kMessageMax * 6 / 5, {.steps = 1, .receiving = 1}, 0, 10));
  EXPECT_FALSE(AllowsThroughout(allowance, kMessageMax * 13 / 10, {.steps = 1, .receiving = 1}, 10, 11.5));
  EXPECT_FALSE(allowance.Allows({.received = kMessageMax * 8 / 5}, {.steps = 1, .receiving = 1}, 0));
  // However many are begun and never sent.
  EXPECT_TRUE(AllowsThroughout(allowance, kMessageMax * 4, {.steps = 1, .receiving = 1000}, 20, 30));
  EXPECT_FALSE(allowance.Allows({.received = kMessageMax * 6}, {.steps = 1, .receiving = 1000}, 30));
}

TEST(ByteAllowance, ReadersOfLongStreamsAnswerWhatTheyAreSent) {
  ByteAllowance allowance(kMessageMax, 0);
  EXPECT_TRUE(allowance.Allows({}, {.steps = 1}, 0));
  // A day of tokens, 100 bytes each, 100 a second; windows opened and pings answered over TLS.
  EXPECT_TRUE(allowance.Allows({.received = 10 << 20, .sent = 864'000'000}, {.steps = 1}, 86'400));
  EXPECT_FALSE(allowance.Allows({.received = 10 << 20, .sent = 864'000'000}, {.steps = 1}, 100))
      << "what is sent does not pay for a flood";
}

TEST(CallTraffic, CountsTheCallsOfOpenConnectionsAlone) {
  CallTraffic traffic;
  traffic.OnReceiving("ipv4:127.0.0.1:1");
  EXPECT_EQ(traffic.Of("ipv4:127.0.0.1:1").steps, 0);
  traffic.Open("ipv4:127.0.0.1:1");
  traffic.OnReceiving("ipv4:127.0.0.1:1");
  EXPECT_EQ(traffic.Of("ipv4:127.0.0.1:1").receiving, 1);
  traffic.OnReceived("ipv4:127.0.0.1:1");
  traffic.OnRefused("ipv4:127.0.0.1:1");
  EXPECT_EQ(traffic.Of("ipv4:127.0.0.1:1").receiving, 0);
  EXPECT_EQ(traffic.Of("ipv4:127.0.0.1:1").steps, 3);
  traffic.Forget("ipv4:127.0.0.1:1");
  EXPECT_EQ(traffic.Of("ipv4:127.0.0.1:1").steps, 0);
}

TEST(SocketFacts, BytesOfAConnectionAreKnown) {
  Holder holder;
  auto listener = Listener::Bind("127.0.0.1:0", 10);
  ASSERT_TRUE(listener.ok()) << listener.status();
  (*listener)->Start(holder.Take());
  const Descriptor client = ConnectTo((*listener)->address());
  ASSERT_EQ(write(client.get(), "12345", 5), 5);
  ASSERT_TRUE(Eventually([&] { return holder.size() == 1; }));
  char read_bytes[3];
  ASSERT_TRUE(Eventually([&] { return recv(holder.first(), read_bytes, 3, MSG_WAITALL) == 3; }));
  EXPECT_EQ(BytesOf(holder.first()).value_or(SocketBytes()).received, 3) << "two were not read";
  EXPECT_FALSE(BytesOf(-1).has_value());
  EXPECT_EQ(PeerOf(-1), "");
}

// Whose calls never begin, while all that it sends is read.
TEST(Listener, AFloodIsCutAlsoAfterThePortIsClosed) {
  CallTraffic traffic;
  Holder holder;
  auto listener = Listener::Bind("127.0.0.1:0", 10);
  ASSERT_TRUE(listener.ok()) << listener.status();
  (*listener)->Start(holder.Take(), &traffic, kMessageMax);
  const Descriptor flood = ConnectTo((*listener)->address());
  const Descriptor quiet = ConnectTo((*listener)->address());
  ASSERT_TRUE(Eventually([&] { return holder.size() == 2; }));
  (*listener)->Stop();
  const std::string much(64 << 10, 'x');
  std::string read_bytes(much.size(), '\0');
  // Until the listener shuts the connection down.
  ASSERT_TRUE(Eventually([&] {
    if (send(flood.get(), much.data(), much.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return errno == EPIPE;
    while (recv(holder.first(), read_bytes.data(), read_bytes.size(), MSG_DONTWAIT) > 0) {
    }
    return false;
  }));
  EXPECT_EQ((*listener)->Counts().refused[static_cast<size_t>(ConnectionRefusal::kFlood)], 1);
  EXPECT_EQ(send(quiet.get(), "x", 1, MSG_NOSIGNAL), 1);
}

// --- In the server.

// The listener's name of a connection is gRPC's: a call's steps count for it.
TEST(GrpcServer, AClientThatCallsAndCallsIsNotCut) {
  for (const char* address : {"127.0.0.1:0", "[::1]:0"}) {
    TestServerOptions options;
    options.listen = address;
    TestServer server(options);
    const auto health = grpc::health::v1::Health::NewStub(server.Connect());
    // Far more in headers than a connection may send between two steps, over several looks.
    const std::string large(6000, 'x');
    for (int i = 0; i < 1000; ++i) {
      const auto context = NewContext();
      context->AddMetadata("large-" + std::to_string(i), large);
      grpc::health::v1::HealthCheckResponse response;
      const grpc::Status status = health->Check(context.get(), {}, &response);
      ASSERT_TRUE(status.ok()) << address << " " << i << ": " << status.error_message();
    }
    EXPECT_EQ(server.server->Connections().refused[static_cast<size_t>(ConnectionRefusal::kFlood)], 0);
    EXPECT_EQ(server.server->Connections().accepted, 1) << "one connection all the time";
  }
}

TEST(GrpcServer, ConnectionsBeyondTheLimitAreClosedAndOthersUndisturbed) {
  TestServerOptions options;
  options.max_connections = 4;
  TestServer server(options);
  server.executor.Close();
  const auto context = NewContext();
  const auto reader = server.stub->StreamComplete(context.get(), TextRequest("x", 50));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  std::vector<Descriptor> idle;
  for (int i = 0; i < 100; ++i) idle.push_back(ConnectTo(server.server->address()));
  EXPECT_TRUE(Eventually([&] {
    return server.server->Connections().refused[static_cast<size_t>(ConnectionRefusal::kLimit)] == 97;
  }));
  EXPECT_EQ(server.server->Connections().open, 4);
  server.executor.Open();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok()) << "the stream that was there goes on";
  idle.clear();
  // gRPC retries the connection until it is taken.
  const auto late = NewContext();
  late->set_wait_for_ready(true);
  v1::CompleteResponse response;
  EXPECT_TRUE(v1::InferenceService::NewStub(server.Connect())
                  ->Complete(late.get(), TextRequest("y", 3), &response)
                  .ok());
}

}  // namespace
}  // namespace spillway::server
