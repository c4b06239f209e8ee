// What the tests of the C++ headers share.

#ifndef CHECK_HPP
#define CHECK_HPP

#include <blyan.hpp>

#include <iostream>
#include <string>

inline int failures = 0;

inline void expect(bool holds, const char *file, int line, const char *what)
{
    if (!holds) {
        failures++;
        std::cerr << file << ":" << line << ": " << what << "\n";
    }
}

#define EXPECT(condition) expect((condition), __FILE__, __LINE__, #condition)

template <class Call>
blyan_status status_of(Call call)
{
    try {
        call();
    } catch (const blyan::error &error) {
        EXPECT(!std::string(error.what()).empty());
        return error.status();
    }
    return BLYAN_STATUS_OK;
}

#endif // CHECK_HPP
