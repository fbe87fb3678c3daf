// EXPECT_ERROR(statement, status, "part of the message"): the statement throws Error of that status, saying that.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

#define EXPECT_ERROR(statement, expected_status, part)                                                             \
  try {                                                                                                            \
    statement;                                                                                                     \
    ADD_FAILURE() << "no error; expected one that says: " << (part);                                               \
  } catch (const ::gaitcrafter::Error& e) {                                                                        \
    EXPECT_EQ(static_cast<int>(e.status()), static_cast<int>(::gaitcrafter::Status::expected_status)) << e.what(); \
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos)                                                 \
        << "\"" << e.what() << "\" lacks \"" << (part) << "\"";                                                    \
  }
