/// A report that nobody hears. Include this after the headers of libraries; import shoal.report before it.
#pragma once

#include <tl/expected.hpp>

#include <cstdio>
#include <memory>
#include <utility>

namespace shoal::test {

struct SilentReport {
  SilentReport() : file(std::fopen("/dev/null", "a"), std::fclose) {
    ReportOptions options;
    options.verbosity = Verbosity::quiet;
    options.program = "test";
    options.out = options.err = file.get();
    report = std::move(*Report::open(std::move(options)));
  }

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file;
  std::unique_ptr<Report> report;
};

}  // namespace shoal::test
