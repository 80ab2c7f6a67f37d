#pragma once

#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>

#include <pillion/log.hpp>
#include <utility>

#include "base/printable.hpp"

namespace pillion::base {

/// Where all lines of Pillion's own go through, to logger(): each is one printable line, whatever a
/// message, a server or a row had in it. Never throws.
class Log {
 public:
  template <typename... Values>
  void debug(spdlog::format_string_t<Values...> form, Values&&... values) const noexcept {
    write(spdlog::level::debug, form, std::forward<Values>(values)...);
  }
  template <typename... Values>
  void info(spdlog::format_string_t<Values...> form, Values&&... values) const noexcept {
    write(spdlog::level::info, form, std::forward<Values>(values)...);
  }
  template <typename... Values>
  void warn(spdlog::format_string_t<Values...> form, Values&&... values) const noexcept {
    write(spdlog::level::warn, form, std::forward<Values>(values)...);
  }
  template <typename... Values>
  void error(spdlog::format_string_t<Values...> form, Values&&... values) const noexcept {
    write(spdlog::level::err, form, std::forward<Values>(values)...);
  }
  template <typename... Values>
  void critical(spdlog::format_string_t<Values...> form, Values&&... values) const noexcept {
    write(spdlog::level::critical, form, std::forward<Values>(values)...);
  }

 private:
  template <typename... Values>
  static void write(spdlog::level::level_enum level, spdlog::format_string_t<Values...> form,
                    Values&&... values) noexcept {
    try {
      const auto to = logger();
      if (!to->should_log(level)) return;
      const std::string line = spdlog::fmt_lib::format(form, std::forward<Values>(values)...);
      to->log(level, spdlog::string_view_t(printable(line)));
    } catch (...) {  // out of memory: the work is worth more than its line
    }
  }
};

inline constexpr Log log;  // NOLINT(readability-identifier-naming): used as a namespace is

}  // namespace pillion::base
