// The built server, started by a test, and HTTP clients of it.
#pragma once

#include <httplib.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>

#include "support/command_test.h"
#include "support/paths.h"

namespace weft::testing {

/// `Base` is a test with a folder of its own.
template <typename Base>
class ServerProcess : public Base {
 protected:
  void TearDown() override {
    if (pid_ > 0) stop(SIGKILL);
    Base::TearDown();
  }

  /// Starts the server and waits until it says where it answers.
  void start_model(const std::string& model,
                   const std::string& arguments,
                   const std::string& launch = "",
                   const std::string& environment = "") {
    std::string line = fmt::format("cd '{}' && exec env {} '{}' {} serve --model {} --dtype f32 --port 0 {} >out 2>err",
                                   this->folder_.string(),
                                   environment,
                                   weft_binary(),
                                   launch,
                                   model,
                                   arguments);
    port_ = 0;
    pid_ = fork();
    if (pid_ == 0) {
      execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
      _exit(127);
    }
    constexpr int kTries = 600;
    std::string log;
    for (int i = 0; i < kTries && port_ == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      log = contents(this->folder_ / "err");
      auto place = log.find("http://127.0.0.1:");
      if (place != std::string::npos && log.find('\n', place) != std::string::npos) {
        port_ = std::stoi(log.substr(place + std::string("http://127.0.0.1:").size()));
      }
    }
    ASSERT_NE(port_, 0) << log;
  }

  int stop(int signal) {
    kill(pid_, signal);
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  httplib::Client client() const {
    httplib::Client result("127.0.0.1", port_);
    result.set_read_timeout(60);
    return result;
  }

  nlohmann::json post(const std::string& path, const nlohmann::json& body, int status = 200) const {
    httplib::Client http = client();
    auto response = http.Post(path, body.dump(), "application/json");
    if (!response) {
      ADD_FAILURE() << path << ": " << httplib::to_string(response.error());
      return {};
    }
    EXPECT_EQ(response->status, status) << response->body;
    return nlohmann::json::parse(response->body);
  }

  pid_t pid_ = -1;
  int port_ = 0;
};

}  // namespace weft::testing
