#include "server/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/network_address.h"
#include "server/socket_facts.h"

namespace spillway::server {
namespace {

// For the metrics port, files, pipes and gRPC's own.
constexpr int64_t kReservedDescriptors = 96;
// Where an accept failed and nothing could be turned away either.
constexpr int kWaitForDescriptorsMs = 50;
constexpr int64_t kBetweenWarningsNs = 10 * kNsPerSecond;
// How often connections' bytes are looked at: one that is cut at once may have sent as much as comes
// meanwhile.
constexpr std::chrono::milliseconds kBetweenLooks(50);

int PortOf(int socket) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  SPILLWAY_CHECK(getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &size) == 0);
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
}

// A listening socket; -1 and errno where it cannot be had.
int ListenAt(const addrinfo& where) {
  Listener::Descriptor socket(::socket(where.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return -1;
  const int on = 1;
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(socket.get(), where.ai_addr, where.ai_addrlen) != 0) return -1;
  if (listen(socket.get(), SOMAXCONN) != 0) return -1;
  return socket.Release();
}

// A family that the machine knows by name only: "localhost" is ::1 too where there is no IPv6.
bool IsAbsent(int error) { return error == EADDRNOTAVAIL || error == EAFNOSUPPORT; }

// A descriptor to give up when there is no other.
int OpenReserve() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

bool IsWantOfDescriptors(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

int64_t ConnectionLimit(int64_t asked, int64_t max_open_files) {
  return std::clamp<int64_t>(max_open_files - kReservedDescriptors, 1, std::max<int64_t>(1, asked));
}

// --- Descriptor

Listener::Descriptor::Descriptor(Descriptor&& other) noexcept : fd_(other.Release()) {}

Listener::Descriptor& Listener::Descriptor::operator=(Descriptor&& other) noexcept {
  if (this == &other) return *this;
  Close();
  fd_ = other.Release();
  return *this;
}

void Listener::Descriptor::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

int Listener::Descriptor::Release() { return std::exchange(fd_, -1); }

// --- Listener

Listener::Listener(std::string address, int64_t max_connections)
    : address_(std::move(address)),
      max_connections_(max_connections),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      reserve_(OpenReserve()) {}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const std::string& address,
                                                         int64_t max_connections) {
  auto out = std::unique_ptr<Listener>(new Listener(address, max_connections));
  const auto error = [&address](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", why));
  };
  if (out->wake_.get() < 0 || out->reserve_.get() < 0) return error(BindErrorText(errno));
  const AddressList found(address, AI_PASSIVE);
  if (found.error() != 0) return error(HostErrorText(found.error()));
  int absent = 0;
  int port = 0;  // 0: none is bound yet
  for (addrinfo* each = found.first(); each != nullptr; each = each->ai_next) {
    // All of them on the port that the first one got.
    if (port != 0 && each->ai_family == AF_INET) {
      reinterpret_cast<sockaddr_in*>(each->ai_addr)->sin_port = htons(static_cast<uint16_t>(port));
    } else if (port != 0 && each->ai_family == AF_INET6) {
      reinterpret_cast<sockaddr_in6*>(each->ai_addr)->sin6_port = htons(static_cast<uint16_t>(port));
    }
    const int socket = ListenAt(*each);
    if (socket < 0 && !IsAbsent(errno)) return error(BindErrorText(errno));
    if (socket < 0) {
      absent = errno;
      continue;
    }
    out->sockets_.emplace_back(socket);
    if (port == 0) port = PortOf(socket);
  }
  if (port == 0) return error(BindErrorText(absent));
  out->address_ = WithPort(address, port);
  return out;
}

Listener::~Listener() {
  Stop();
  if (!watch_.joinable()) return;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  watch_.join();
}

void Listener::Start(Take take, CallTraffic* traffic, int64_t message_bytes_max) {
  SPILLWAY_CHECK(!thread_.joinable());
  take_ = std::move(take);
  traffic_ = traffic;
  message_bytes_max_ = message_bytes_max;
  thread_ = std::thread([this] { Work(); });
  // Not on the accepting thread, which gRPC may let parse what connections send.
  if (traffic_ != nullptr) watch_ = std::thread([this] { Watch(); });
}

void Listener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    SPILLWAY_CHECK(write(wake_.get(), &one, sizeof(one)) == sizeof(one));
    thread_.join();
  }
  sockets_.clear();
}

void Listener::Work() {
  std::vector<pollfd> polled = {{wake_.get(), POLLIN, 0}};
  for (const Descriptor& socket : sockets_) polled.push_back({socket.get(), POLLIN, 0});
  while (true) {
    if (poll(polled.data(), polled.size(), /*timeout=*/-1) < 0) continue;  // EINTR
    if (polled[0].revents != 0) return;
    for (size_t i = 1; i < polled.size(); ++i) {
      if (polled[i].revents != 0) Accept(polled[i].fd);
    }
  }
}

void Listener::Accept(int listening) {
  // A few at a time, so that Stop is seen however fast they come.
  for (int i = 0; i < 64; ++i) {
    // What others have left is the reserve's first: without it nobody can be turned away, and who comes would
    // wait.
    if (reserve_.get() < 0) reserve_ = Descriptor(OpenReserve());
    Descriptor connected(accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (connected.get() >= 0) {
      Admit(listening, std::move(connected));
      continue;
    }
    if (errno == EAGAIN) return;
    // Anything else is the connection's own misfortune, of which accept(2) has a long list.
    if (IsWantOfDescriptors(errno)) TurnAway(listening, errno);
  }
}

void Listener::Admit(int listening, Descriptor connected) {
  struct stat about {};
  fstat(connected.get(), &about);
  bool full = false, is_first = false;
  {
    MutexLock lock(mutex_);
    const auto most = static_cast<size_t>(max_connections_);
    if (connections_.size() >= most) ForgetClosed();
    full = connections_.size() >= most;
    is_first = connections_.empty();
    if (!full) {
      std::string peer = PeerOf(connected.get());
      if (traffic_ != nullptr) traffic_->Open(peer);
      connections_.push_back({connected.get(), about.st_ino, std::move(peer),
                              ByteAllowance(message_bytes_max_, ToSeconds(Clock::Real().NowNs())),
                              /*cut=*/false});
      ++counts_.accepted;
    }
  }
  if (is_first) changed_.NotifyOne();
  if (full) return Refuse(ConnectionRefusal::kLimit, "as many as may be are open");
  const int on = 1;
  setsockopt(connected.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  take_(listening, connected.Release());
}

void Listener::TurnAway(int listening, int error) {
  reserve_.Close();
  if (Descriptor connected(accept4(listening, nullptr, nullptr, SOCK_CLOEXEC)); connected.get() >= 0) {
    Refuse(ConnectionRefusal::kDescriptors, strerror(error));
  }
  reserve_ = Descriptor(OpenReserve());
  // Somebody else took it: there is nothing to do but to wait, and not to spin.
  if (reserve_.get() < 0) std::this_thread::sleep_for(std::chrono::milliseconds(kWaitForDescriptorsMs));
}

void Listener::Refuse(ConnectionRefusal why, const char* error) {
  int64_t refused = 0;
  {
    MutexLock lock(mutex_);
    ++counts_.refused[static_cast<size_t>(why)];
    refused = counts_.refused[static_cast<size_t>(ConnectionRefusal::kLimit)] +
              counts_.refused[static_cast<size_t>(ConnectionRefusal::kDescriptors)];
  }
  const int64_t now_ns = Clock::Real().NowNs();
  if (last_warning_ns_ != 0 && now_ns - last_warning_ns_ < kBetweenWarningsNs) return;
  last_warning_ns_ = now_ns;
  Log(LogLevel::kWarning, "a connection was closed as it came; raise --max_connections or ulimit -n",
      {{"why", error}, {"max_connections", max_connections_}, {"closed_so_far", refused}});
}

void Listener::Watch() {
  int64_t last_warning_ns = -kBetweenWarningsNs;
  while (true) {
    std::string cut;
    int64_t cut_so_far = 0;
    {
      MutexLock lock(mutex_);
      changed_.WaitFor(mutex_, kBetweenLooks);
      while (!stopping_ && connections_.empty()) changed_.Wait(mutex_);
      if (stopping_) return;
      cut = CutFloods();
      cut_so_far = counts_.refused[static_cast<size_t>(ConnectionRefusal::kFlood)];
    }
    const int64_t now_ns = Clock::Real().NowNs();
    if (cut.empty() || now_ns - last_warning_ns < kBetweenWarningsNs) continue;
    last_warning_ns = now_ns;
    Log(LogLevel::kWarning, "a connection was cut: it sent more than its calls account for",
        {{"peer", cut}, {"cut_so_far", cut_so_far}});
  }
}

std::string Listener::CutFloods() {
  std::string cut;
  ForgetClosed();
  const double now_s = ToSeconds(Clock::Real().NowNs());
  for (Connection& connection : connections_) {
    const std::optional<SocketBytes> bytes = BytesOf(connection.fd);
    if (connection.cut || !bytes.has_value() ||
        connection.allowance.Allows(*bytes, traffic_->Of(connection.peer), now_s)) {
      continue;
    }
    // gRPC sees its end, and forgets what it kept of it. Had it closed the descriptor this very moment, and
    // another connection got it, that one would have to come again.
    shutdown(connection.fd, SHUT_RDWR);
    connection.cut = true;
    ++counts_.refused[static_cast<size_t>(ConnectionRefusal::kFlood)];
    cut = connection.peer;
  }
  return cut;
}

void Listener::ForgetClosed() {
  const auto closed = [this](const Connection& connection) {
    struct stat about {};
    const bool is_open =
        fstat(connection.fd, &about) == 0 && about.st_ino == connection.inode && S_ISSOCK(about.st_mode);
    if (!is_open && traffic_ != nullptr) traffic_->Forget(connection.peer);
    return !is_open;
  };
  connections_.erase(std::remove_if(connections_.begin(), connections_.end(), closed), connections_.end());
}

ConnectionCounts Listener::Counts() {
  MutexLock lock(mutex_);
  ForgetClosed();
  counts_.open = static_cast<int64_t>(connections_.size());
  return counts_;
}

}  // namespace spillway::server
