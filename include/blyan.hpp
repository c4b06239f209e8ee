// blyan.hpp - blyan.h for C++17: handles that free themselves, exceptions, ranges, views.
//
// The rules are those of blyan.h. Every class owns one handle, moves, and does not copy. What fails throws
// blyan::error. Views (tensor, payload::bytes) live as long as the object that they were asked of.
// Callbacks may throw: the exception comes out of the call that they were in. Only that of
// set_log_callback may not: it is in no call of the program, and its type says noexcept.
//
// Growth, deltas and evidence are in blyan_evolve.hpp, training in blyan_learn.hpp: this includes both.

#ifndef BLYAN_HPP
#define BLYAN_HPP

#include "blyan.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <ios>
#include <istream>
#include <iterator>
#include <memory>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace blyan {

// A view of values somewhere else, as std::span of C++20.
template <class T>
class span {
public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

// The name of a block, a payload, a receipt.
struct hash : blyan_hash {
    constexpr hash() noexcept : blyan_hash{} {}
    constexpr hash(const blyan_hash &other) noexcept : blyan_hash(other) {}
    static hash from_hex(std::string_view hex);
    std::string hex() const;
    friend bool operator==(const hash &a, const hash &b) noexcept { return compare(a, b) == 0; }
    friend bool operator!=(const hash &a, const hash &b) noexcept { return compare(a, b) != 0; }
    friend bool operator<(const hash &a, const hash &b) noexcept { return compare(a, b) < 0; }

private:
    static int compare(const hash &a, const hash &b) noexcept
    {
        return std::memcmp(a.bytes, b.bytes, sizeof a.bytes);
    }
};

static_assert(sizeof(hash) == sizeof(blyan_hash), "lists of hashes are C's");

// Whatever the library fails with.
class error : public std::runtime_error {
public:
    error(blyan_status status, const std::string &message, std::optional<hash> block)
        : std::runtime_error(message), status_(status), block_(block)
    {
    }
    blyan_status status() const noexcept { return status_; }
    const char *status_name() const noexcept { return blyan_status_name(status_); }
    // The block that it is about, where there is one.
    const std::optional<hash> &block() const noexcept { return block_; }

private:
    blyan_status status_;
    std::optional<hash> block_;
};

namespace detail {

// Throws the last error of this thread; the end of an iteration is none.
inline blyan_status check(blyan_status status)
{
    if (status == BLYAN_STATUS_OK || status == BLYAN_STATUS_END)
        return status;
    const blyan_error *last = blyan_last_error();
    if (last == nullptr)
        throw error(status, blyan_status_name(status), std::nullopt);
    throw error(status, std::string(last->message, last->message_len),
                last->block == nullptr ? std::nullopt : std::optional<hash>(*last->block));
}

template <class T, void (*Free)(T *)>
struct deleter {
    void operator()(T *handle) const noexcept { Free(handle); }
};

// Owns a handle.
template <class T, void (*Free)(T *)>
using handle = std::unique_ptr<T, deleter<T, Free>>;

// The handle that a call gives.
template <class Handle, class Call>
Handle make(Call call)
{
    typename Handle::pointer made = nullptr;
    const blyan_status status = call(&made);
    Handle owner(made);
    check(status);
    return owner;
}

// The struct that a call fills.
template <class Info, class Call>
Info describe(Call call)
{
    Info info{};
    check(call(&info, sizeof info));
    return info;
}

template <class Value, class Call>
Value value(Call call)
{
    Value result{};
    check(call(&result));
    return result;
}

inline std::string_view view(blyan_str text) { return {text.data, text.len}; }
inline std::string copy(blyan_str text) { return std::string(text.data, text.len); }
inline blyan_str text(std::string_view text) { return {text.data() == nullptr ? "" : text.data(), text.size()}; }
inline std::vector<blyan_str> texts(const std::vector<std::string> &list)
{
    std::vector<blyan_str> views;
    for (const std::string &item : list)
        views.push_back(text(item));
    return views;
}
// A list of nothing is not the same as none.
inline void some(const std::optional<std::vector<hash>> &hashes, const blyan_hash *&data, std::size_t &len)
{
    static const blyan_hash nothing{};
    if (hashes) {
        data = hashes->empty() ? &nothing : hashes->data();
        len = hashes->size();
    }
}
inline std::uint64_t count(const std::optional<std::uint64_t> &value) { return value.value_or(BLYAN_NONE); }

using text_handle = handle<blyan_text, blyan_text_free>;
template <class Call>
std::string make_text(Call call)
{
    return copy(blyan_text_get(make<text_handle>(call).get()));
}
template <class Call>
std::vector<std::uint32_t> make_tokens(Call call)
{
    auto tokens = make<handle<blyan_tokens, blyan_tokens_free>>(call);
    const std::uint32_t *data = blyan_tokens_data(tokens.get());
    return {data, data + blyan_tokens_len(tokens.get())};
}
template <class Call>
std::vector<hash> make_hashes(Call call)
{
    auto list = make<handle<blyan_hashes, blyan_hashes_free>>(call);
    std::vector<hash> hashes;
    for (std::size_t i = 0; i < blyan_hashes_len(list.get()); i++)
        hashes.push_back(value<blyan_hash>([&](auto *out) { return blyan_hashes_get(list.get(), i, out); }));
    return hashes;
}

// A callback of C++ behind a pointer of C; an exception waits here until the call is over.
template <class Argument>
struct callback {
    const std::function<bool(const Argument &)> &function;
    std::exception_ptr thrown;

    template <class Raw>
    static int32_t call(void *user, const Raw *raw) noexcept
    {
        auto *self = static_cast<callback *>(user);
        try {
            return self->function(Argument(*raw)) ? 0 : 1;
        } catch (...) {
            self->thrown = std::current_exception();
            return 1;
        }
    }
    void rethrow() const
    {
        if (thrown)
            std::rethrow_exception(thrown);
    }
};

} // namespace detail

inline hash hash::from_hex(std::string_view hex)
{
    const blyan_str given = detail::text(hex);
    return detail::value<blyan_hash>([&](auto *out) { return blyan_hash_from_hex(given.data, given.len, out); });
}

inline std::string hash::hex() const
{
    char digits[BLYAN_HASH_HEX_SIZE];
    detail::check(blyan_hash_to_hex(this, digits, sizeof digits));
    return digits;
}

inline const char *version() noexcept { return blyan_version(); }

// Refuses a library of another version than this header.
inline void check_version()
{
    if (blyan_abi_version() != BLYAN_ABI_VERSION)
        throw std::runtime_error("libblyan is of another version than blyan.h");
}

// As blyan_log_fn. It is called from any thread of the library, where nobody could catch what it throws.
using log_fn = void (*)(void *user, std::int32_t level, blyan_str target, blyan_str message) noexcept;

// Sets the callback that hears log messages; see blyan.h. What may throw does not compile.
inline void set_log_callback(log_fn callback, void *user, std::int32_t level)
{
    detail::check(blyan_set_log_callback(callback, user, level));
}

// Ends calls that were given it, from any thread.
class cancel {
public:
    cancel() : handle_(detail::make<handle>(blyan_cancel_new)) {}
    void set(bool cancelled = true) noexcept { blyan_cancel_set(get(), cancelled); }
    bool is_set() const noexcept { return blyan_cancel_is_set(get()); }
    blyan_cancel *get() const noexcept { return handle_.get(); }

private:
    using handle = detail::handle<blyan_cancel, blyan_cancel_free>;
    handle handle_;
};

using progress = blyan_progress;
// Hears how far a call is; false stops it, and it throws with BLYAN_STATUS_STOPPED.
using progress_fn = std::function<bool(const progress &)>;

namespace detail {

// Makes a call whose options have a progress callback and a flag.
template <class Progress, class Options, class Call>
void watch(Options &raw, const std::function<bool(const Progress &)> &on_progress, const cancel *cancel,
           Call call)
{
    callback<Progress> heard{on_progress, nullptr};
    if (on_progress) {
        raw.on_progress = callback<Progress>::template call<Progress>;
        raw.user = &heard;
    }
    raw.cancel = cancel == nullptr ? nullptr : cancel->get();
    const blyan_status status = call();
    heard.rethrow();
    check(status);
}

// As watch, for a call that gives a handle.
template <class Handle, class Progress, class Options, class Call>
Handle watched(Options &raw, const std::function<bool(const Progress &)> &on_progress, const cancel *cancel,
               Call call)
{
    Handle owner;
    watch(raw, on_progress, cancel, [&] {
        typename Handle::pointer made = nullptr;
        const blyan_status status = call(&made);
        owner.reset(made);
        return status;
    });
    return owner;
}

} // namespace detail

// A block: what it says about itself.
struct block {
    blyan::hash hash, payload;
    std::uint64_t payload_bytes = 0, height = 0;
    std::string name, kind_name, version, media_type;
    std::vector<blyan_parent> parents;
    std::int32_t lane = 0;
    std::uint16_t kind = 0;
    std::vector<std::byte> header; // its BLAKE3 is the hash

    // Takes the handle.
    explicit block(blyan_block *taken)
    {
        detail::handle<blyan_block, blyan_block_free> owner(taken);
        const auto info = detail::describe<blyan_block_info>(
            [&](auto *out, std::size_t size) { return blyan_block_describe(taken, out, size); });
        hash = info.hash;
        payload = info.payload;
        payload_bytes = info.payload_bytes;
        height = info.height;
        name = detail::copy(info.name);
        kind_name = detail::copy(info.kind_name);
        version = detail::copy(info.version);
        media_type = detail::copy(info.media_type);
        parents.assign(info.parents, info.parents + info.parents_len);
        lane = info.lane;
        kind = static_cast<std::uint16_t>(info.kind);
        const auto *bytes = static_cast<const std::byte *>(info.header);
        header.assign(bytes, bytes + info.header_len);
    }
};

inline std::string kind_name(std::uint16_t kind)
{
    return detail::make_text([&](auto *out) { return blyan_kind_name(kind, out); });
}
inline std::uint16_t kind_from_name(std::string_view name)
{
    const blyan_str given = detail::text(name);
    return detail::value<std::uint16_t>(
        [&](auto *out) { return blyan_kind_from_name(given.data, given.len, out); });
}

// A walk over blocks, once: for (const blyan::block &block : chain.blocks(BLYAN_LANE_META)).
class blocks {
public:
    explicit blocks(blyan_blocks *taken) : handle_(taken) {}
    std::optional<block> next()
    {
        blyan_block *found = nullptr;
        if (detail::check(blyan_blocks_next(handle_.get(), &found)) == BLYAN_STATUS_END)
            return std::nullopt;
        return block(found);
    }

    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = block;
        using difference_type = std::ptrdiff_t;
        using pointer = const block *;
        using reference = const block &;
        iterator() = default;
        explicit iterator(blocks *walk) : walk_(walk) { ++*this; }
        reference operator*() const { return *block_; }
        pointer operator->() const { return &*block_; }
        iterator &operator++()
        {
            block_ = walk_->next();
            if (!block_)
                walk_ = nullptr;
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const iterator &a, const iterator &b) { return a.walk_ == b.walk_; }
        friend bool operator!=(const iterator &a, const iterator &b) { return a.walk_ != b.walk_; }

    private:
        blocks *walk_ = nullptr;
        std::optional<block> block_;
    };
    iterator begin() { return iterator(this); }
    iterator end() { return iterator(); }

private:
    detail::handle<blyan_blocks, blyan_blocks_free> handle_;
};

// A block to append.
struct draft {
    std::int32_t lane = BLYAN_LANE_PARAMETER;
    std::uint16_t kind = 0;
    std::string name;
    std::string version = "1.0.0";
    std::string media_type; // empty: it follows from the kind
    std::vector<blyan_parent> parents;
    span<const std::byte> payload;

    // For C; points into this.
    blyan_draft raw() const
    {
        blyan_draft raw;
        detail::check(blyan_draft_init(&raw, sizeof raw));
        raw.lane = lane;
        raw.kind = kind;
        raw.name = detail::text(name);
        raw.version = detail::text(version);
        if (!media_type.empty())
            raw.media_type = detail::text(media_type);
        raw.parents = parents.data();
        raw.parents_len = parents.size();
        raw.payload = payload.data();
        raw.payload_len = payload.size();
        return raw;
    }
    blyan::hash hash() const
    {
        const blyan_draft given = raw();
        return detail::value<blyan_hash>([&](auto *out) { return blyan_draft_hash(&given, out); });
    }
};

// Verified bytes.
class payload {
public:
    explicit payload(blyan_payload *taken) : handle_(taken) {}
    span<const std::byte> bytes() const noexcept
    {
        return {static_cast<const std::byte *>(blyan_payload_data(handle_.get())),
                blyan_payload_len(handle_.get())};
    }

private:
    detail::handle<blyan_payload, blyan_payload_free> handle_;
};

// One tensor, where it is mapped.
struct tensor : blyan_tensor {
    tensor(const blyan_tensor &raw) : blyan_tensor(raw) {}
    std::string_view label() const { return detail::view(name); }
    span<const std::size_t> shape() const { return {dims, rank}; }
    span<const std::byte> bytes() const { return {static_cast<const std::byte *>(data), nbytes}; }
    // The elements as T, whose size must be that of the dtype; of I4 the bytes, each of which holds two.
    template <class T>
    span<const T> as() const
    {
        static_assert(std::is_trivially_copyable<T>::value, "elements are plain bytes");
        static const std::size_t sizes[] = {0, 4, 2, 2, 1, 1, 1};
        if (dtype < BLYAN_DTYPE_F32 || dtype > BLYAN_DTYPE_I4 || sizes[dtype] != sizeof(T) ||
            reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0)
            throw error(BLYAN_STATUS_INVALID_ARGUMENT, "the tensor has elements of another size", std::nullopt);
        return {static_cast<const T *>(data), nbytes / sizeof(T)};
    }
};

// The tensors of a block, by name.
class tensors {
public:
    explicit tensors(blyan_tensors *taken) : handle_(taken) {}
    static tensors parse(span<const std::byte> payload)
    {
        return tensors(detail::make<handle>([&](auto *out) {
                           return blyan_tensors_parse(payload.data(), payload.size(), out);
                       }).release());
    }
    std::size_t size() const noexcept { return blyan_tensors_len(handle_.get()); }
    tensor at(std::size_t index) const
    {
        return detail::describe<blyan_tensor>(
            [&](auto *out, std::size_t size) { return blyan_tensors_get(handle_.get(), index, out, size); });
    }
    tensor operator[](std::string_view name) const { return find(blyan_tensors_find, name); }
    tensor scale(std::string_view name) const { return find(blyan_tensors_scale, name); }
    std::vector<float> to_f32(std::string_view name) const
    {
        std::size_t elements = 1;
        for (const std::size_t dim : (*this)[name].shape())
            elements *= dim;
        std::vector<float> values(elements);
        const blyan_str given = detail::text(name);
        detail::check(
            blyan_tensors_to_f32(handle_.get(), given.data, given.len, values.data(), values.size()));
        return values;
    }

    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = tensor;
        using difference_type = std::ptrdiff_t;
        using pointer = void;
        using reference = tensor;
        iterator(const tensors *owner, std::size_t index) : owner_(owner), index_(index) {}
        tensor operator*() const { return owner_->at(index_); }
        iterator &operator++()
        {
            ++index_;
            return *this;
        }
        friend bool operator==(const iterator &a, const iterator &b) { return a.index_ == b.index_; }
        friend bool operator!=(const iterator &a, const iterator &b) { return a.index_ != b.index_; }

    private:
        const tensors *owner_;
        std::size_t index_;
    };
    iterator begin() const { return {this, 0}; }
    iterator end() const { return {this, size()}; }

private:
    using handle = detail::handle<blyan_tensors, blyan_tensors_free>;
    template <class Find>
    tensor find(Find find, std::string_view name) const
    {
        const blyan_str given = detail::text(name);
        return detail::describe<blyan_tensor>([&](auto *out, std::size_t size) {
            return find(handle_.get(), given.data, given.len, out, size);
        });
    }
    handle handle_;
};

// The payload of a weight block.
inline payload write_tensors(const std::vector<blyan_tensor> &tensors)
{
    using handle = detail::handle<blyan_payload, blyan_payload_free>;
    return payload(detail::make<handle>([&](auto *out) {
                       return blyan_tensors_write(tensors.data(), tensors.size(), out);
                   }).release());
}
inline void convert(std::int32_t from, span<const std::byte> source, std::int32_t to, span<std::byte> out)
{
    detail::check(blyan_convert(from, source.data(), source.size(), to, out.data(), out.size()));
}
inline void quantize(const blyan_tensor &source, std::int32_t to, span<std::byte> data, span<float> scales)
{
    detail::check(blyan_quantize(&source, to, data.data(), data.size(), scales.data(), scales.size()));
}
inline void quantize_i4(const blyan_tensor &source, span<std::byte> data, span<std::uint16_t> scales)
{
    detail::check(blyan_quantize_i4(&source, data.data(), data.size(), scales.data(), scales.size()));
}

using signature = blyan_signature;
inline signature sign(span<const std::uint8_t> secret_key, const hash &block, std::uint64_t time_ms)
{
    return detail::value<blyan_signature>([&](auto *out) {
        return blyan_sign(secret_key.data(), secret_key.size(), &block, time_ms, out);
    });
}
inline bool verifies(const signature &signature, const hash &block)
{
    return detail::value<bool>(
        [&](auto *out) { return blyan_signature_verifies(&signature, &block, out); });
}

struct bad_block {
    hash block;
    std::string name, reason;
};
struct verify_report {
    std::uint64_t blocks = 0, payload_bytes = 0;
    std::vector<bad_block> bad;
    // Blocks whose payload file is missing on purpose.
    std::vector<hash> collected;
    bool ok() const noexcept { return bad.empty(); }
};
// What to put into a bundle.
struct bundle_options {
    std::optional<std::vector<hash>> blocks; // none: all of the chain
    std::vector<hash> known;                 // what the other chain has, such as its tips
    bool ancestors = true;
    progress_fn on_progress;
    const blyan::cancel *cancel = nullptr;

    // For C; points into this.
    blyan_bundle_options raw() const
    {
        blyan_bundle_options raw;
        detail::check(blyan_bundle_options_init(&raw, sizeof raw));
        detail::some(blocks, raw.blocks, raw.blocks_len);
        raw.known = known.data();
        raw.known_len = known.size();
        raw.ancestors = ancestors;
        return raw;
    }
};
struct unbundle_options {
    std::optional<std::uint64_t> max_payload_bytes;
    progress_fn on_progress;
    const blyan::cancel *cancel = nullptr;

    // For C.
    blyan_unbundle_options raw() const
    {
        blyan_unbundle_options raw;
        detail::check(blyan_unbundle_options_init(&raw, sizeof raw));
        raw.max_payload_bytes = max_payload_bytes.value_or(raw.max_payload_bytes);
        return raw;
    }
};

namespace detail {

// A stream of C++ behind a function of C; what it throws waits here until the call is over.
template <class Stream>
struct streamed {
    Stream &stream;
    std::exception_ptr thrown;

    // `work` says whether the stream is as it should be.
    template <class Work>
    std::int32_t run(Work work) noexcept
    {
        try {
            if (!work())
                throw std::ios_base::failure("the stream of a bundle failed");
            return 0;
        } catch (...) {
            thrown = std::current_exception();
            return 1;
        }
    }
    void rethrow() const
    {
        if (thrown)
            std::rethrow_exception(thrown);
    }
};

inline std::int32_t write_bytes(void *user, const void *data, std::size_t len) noexcept
{
    auto *self = static_cast<streamed<std::ostream> *>(user);
    return self->run([&] {
        // One that could not be opened takes nothing, and is not bad.
        self->stream.write(static_cast<const char *>(data), static_cast<std::streamsize>(len));
        return !self->stream.fail();
    });
}
inline std::int32_t read_bytes(void *user, void *data, std::size_t capacity, std::size_t *len) noexcept
{
    auto *self = static_cast<streamed<std::istream> *>(user);
    return self->run([&] {
        // One that could not be opened has no bytes, and is not bad; its end is no failure.
        if (self->stream.fail() || self->stream.rdbuf() == nullptr)
            return false;
        *len = static_cast<std::size_t>(self->stream.rdbuf()->sgetn(static_cast<char *>(data),
                                                                    static_cast<std::streamsize>(capacity)));
        return !self->stream.bad();
    });
}

} // namespace detail

struct collect_options {
    std::optional<std::vector<hash>> roots; // none: releases, and models that no whole one follows
    bool dry_run = false;
    const blyan::cancel *cancel = nullptr;
};
struct collect_report : blyan_collect_info {
    std::vector<hash> blocks;
};
// A model that has a name and a version.
struct release {
    std::string name, version;
    hash block, model;
    std::optional<hash> predecessor;
};
struct import_options {
    std::int32_t dtype = BLYAN_DTYPE_KEEP, rope_frequencies = BLYAN_DTYPE_KEEP;
    bool dry_run = false;
    std::vector<std::string> ignore_config_keys;
    progress_fn on_progress;
    const blyan::cancel *cancel = nullptr;
};
struct import_report : blyan_import_info {
    std::vector<std::string> ignored_files;
};
struct export_options {
    bool overwrite = false;
    std::optional<std::uint64_t> max_shard_bytes;
    progress_fn on_progress;
    const blyan::cancel *cancel = nullptr;
};
struct export_report : blyan_export_info {
    std::vector<std::string> files;
};

// A transaction; undone unless it is committed.
class writer {
public:
    explicit writer(blyan_writer *taken) : handle_(taken) {}
    blyan_appended append(const draft &draft)
    {
        const blyan_draft given = draft.raw();
        return detail::value<blyan_appended>(
            [&](auto *out) { return blyan_writer_append(handle_.get(), &given, out); });
    }
    void add_signature(const hash &block, const signature &signature)
    {
        detail::check(blyan_writer_add_signature(handle_.get(), &block, &signature));
    }
    bool contains(const hash &block) const
    {
        return detail::value<bool>(
            [&](auto *out) { return blyan_writer_contains(handle_.get(), &block, out); });
    }
    void commit() { detail::check(blyan_writer_commit(handle_.get())); }

private:
    detail::handle<blyan_writer, blyan_writer_free> handle_;
};

// An open chain.
class chain {
public:
    // Opens or creates the chain in a directory.
    explicit chain(std::string_view dir, bool read_only = false)
    {
        blyan_chain_options options;
        detail::check(blyan_chain_options_init(&options, sizeof options));
        options.read_only = read_only;
        const blyan_str given = detail::text(dir);
        handle_ = detail::make<handle>(
            [&](auto *out) { return blyan_chain_open(given.data, given.len, &options, out); });
    }
    static chain in_memory() { return chain(detail::make<handle>(blyan_chain_in_memory)); }
    blyan_chain *get() const noexcept { return handle_.get(); }

    std::string dir() const { return detail::copy(blyan_chain_dir(get())); }
    bool is_writable() const noexcept { return blyan_chain_is_writable(get()); }
    std::uint64_t size() const
    {
        return detail::value<std::uint64_t>([&](auto *out) { return blyan_chain_len(get(), out); });
    }
    bool contains(const hash &block) const
    {
        return detail::value<bool>([&](auto *out) { return blyan_chain_contains(get(), &block, out); });
    }
    blyan::block at(const hash &hash) const
    {
        blyan_block *found = nullptr;
        detail::check(blyan_chain_get(get(), &hash, &found));
        return blyan::block(found);
    }
    blyan::payload payload(const hash &block) const
    {
        blyan_payload *found = nullptr;
        detail::check(blyan_chain_payload(get(), &block, &found));
        return blyan::payload(found);
    }
    blyan::tensors tensors(const hash &block) const
    {
        blyan_tensors *found = nullptr;
        detail::check(blyan_tensors_open(get(), &block, &found));
        return blyan::tensors(found);
    }
    blyan::blocks blocks(std::int32_t lane) const
    {
        return walk([&](auto *out) { return blyan_chain_blocks(get(), lane, out); });
    }
    blyan::blocks blocks_of_kind(std::uint16_t kind) const
    {
        return walk([&](auto *out) { return blyan_chain_blocks_of_kind(get(), kind, out); });
    }
    blyan::blocks blocks_of_kind(std::int32_t lane, std::uint16_t kind) const
    {
        return walk([&](auto *out) { return blyan_chain_blocks_of_kind_in(get(), lane, kind, out); });
    }
    blyan::blocks all_blocks() const
    {
        return walk([&](auto *out) { return blyan_chain_all_blocks(get(), out); });
    }
    std::vector<blyan::block> heads(std::string_view name) const
    {
        const blyan_str given = detail::text(name);
        return list([&](auto *out) { return blyan_chain_heads(get(), given.data, given.len, out); });
    }
    std::vector<blyan::block> ancestors(const hash &block) const
    {
        return list([&](auto *out) { return blyan_chain_ancestors(get(), &block, out); });
    }
    std::vector<hash> children(const hash &block) const
    {
        return detail::make_hashes([&](auto *out) { return blyan_chain_children(get(), &block, out); });
    }
    std::vector<hash> tips(std::int32_t lane) const
    {
        return detail::make_hashes([&](auto *out) { return blyan_chain_tips(get(), lane, out); });
    }
    hash root() const
    {
        return detail::value<blyan_hash>([&](auto *out) { return blyan_chain_root(get(), out); });
    }

    hash append(const draft &draft)
    {
        const blyan_draft given = draft.raw();
        return detail::value<blyan_hash>([&](auto *out) { return blyan_chain_append(get(), &given, out); });
    }
    blyan::writer begin()
    {
        blyan_writer *begun = nullptr;
        detail::check(blyan_chain_writer(get(), &begun));
        return blyan::writer(begun);
    }
    void add_signature(const hash &block, const signature &signature)
    {
        detail::check(blyan_chain_add_signature(get(), &block, &signature));
    }
    std::vector<signature> signatures(const hash &block) const
    {
        auto found = detail::make<detail::handle<blyan_signatures, blyan_signatures_free>>(
            [&](auto *out) { return blyan_chain_signatures(get(), &block, out); });
        std::vector<signature> signatures;
        for (std::size_t i = 0; i < blyan_signatures_len(found.get()); i++)
            signatures.push_back(detail::value<blyan_signature>(
                [&](auto *out) { return blyan_signatures_get(found.get(), i, out); }));
        return signatures;
    }
    // Names a model; the version is SemVer.
    hash release(const hash &model, std::string_view name, std::string_view version)
    {
        const blyan_str named = detail::text(name), versioned = detail::text(version);
        return detail::value<blyan_hash>([&](auto *out) {
            return blyan_chain_release(get(), &model, named.data, named.len, versioned.data, versioned.len, out);
        });
    }

    std::vector<blyan::release> releases() const
    {
        auto list = detail::make<detail::handle<blyan_releases, blyan_releases_free>>(
            [&](auto *out) { return blyan_chain_releases(get(), out); });
        std::vector<blyan::release> releases;
        for (std::size_t i = 0; i < blyan_releases_len(list.get()); i++) {
            const auto raw = detail::describe<blyan_release>([&](auto *out, std::size_t size) {
                return blyan_releases_get(list.get(), i, out, size);
            });
            releases.push_back({detail::copy(raw.name), detail::copy(raw.version), raw.block, raw.model,
                                std::nullopt});
            if (raw.has_predecessor)
                releases.back().predecessor = raw.predecessor;
        }
        return releases;
    }
    // The model of a name: latest, a release, a hash or its beginning.
    hash find_model(std::string_view name) const
    {
        const blyan_str given = detail::text(name);
        return detail::value<blyan_hash>(
            [&](auto *out) { return blyan_chain_find_model(get(), given.data, given.len, out); });
    }
    // The block of a name, which may be a slot of the model `of`.
    hash find_block(std::string_view name, std::string_view of = "latest") const
    {
        const blyan_str named = detail::text(name), owner = detail::text(of);
        return detail::value<blyan_hash>([&](auto *out) {
            return blyan_chain_find_block(get(), named.data, named.len, owner.data, owner.len, out);
        });
    }
    // A block and those whose place it took, the newest first.
    std::vector<blyan::block> lineage(const hash &block) const
    {
        return list([&](auto *out) { return blyan_chain_lineage(get(), &block, out); });
    }
    // A new model that follows `current` and is as `to`, which it comes from, was.
    hash rollback(const hash &current, const hash &to, std::string_view reason)
    {
        const blyan_str given = detail::text(reason);
        return detail::value<blyan_hash>([&](auto *out) {
            return blyan_chain_rollback(get(), &current, &to, given.data, given.len, out);
        });
    }
    // A new model that follows `from` and is as `to`, which has another architecture.
    hash migrate(const hash &from, const hash &to, std::string_view reason)
    {
        const blyan_str given = detail::text(reason);
        return detail::value<blyan_hash>([&](auto *out) {
            return blyan_chain_migrate(get(), &from, &to, given.data, given.len, out);
        });
    }

    blyan_bundle_info bundle_file(std::string_view file, const bundle_options &options = {}) const
    {
        blyan_bundle_options raw = options.raw();
        const blyan_str given = detail::text(file);
        blyan_bundle_info info{};
        detail::watch(raw, options.on_progress, options.cancel, [&] {
            return blyan_chain_bundle_file(get(), given.data, given.len, &raw, &info, sizeof info);
        });
        return info;
    }
    // Into a stream.
    blyan_bundle_info bundle(std::ostream &to, const bundle_options &options = {}) const
    {
        blyan_bundle_options raw = options.raw();
        detail::streamed<std::ostream> stream{to, nullptr};
        blyan_bundle_info info{};
        detail::watch(raw, options.on_progress, options.cancel, [&] {
            const blyan_status status =
                blyan_chain_bundle(get(), detail::write_bytes, &stream, &raw, &info, sizeof info);
            stream.rethrow();
            return status;
        });
        return info;
    }
    blyan_unbundle_info unbundle_file(std::string_view file, const unbundle_options &options = {})
    {
        blyan_unbundle_options raw = options.raw();
        const blyan_str given = detail::text(file);
        blyan_unbundle_info info{};
        detail::watch(raw, options.on_progress, options.cancel, [&] {
            return blyan_chain_unbundle_file(get(), given.data, given.len, &raw, &info, sizeof info);
        });
        return info;
    }
    // From a stream, which is read to its end.
    blyan_unbundle_info unbundle(std::istream &from, const unbundle_options &options = {})
    {
        blyan_unbundle_options raw = options.raw();
        detail::streamed<std::istream> stream{from, nullptr};
        blyan_unbundle_info info{};
        detail::watch(raw, options.on_progress, options.cancel, [&] {
            const blyan_status status =
                blyan_chain_unbundle(get(), detail::read_bytes, &stream, &raw, &info, sizeof info);
            stream.rethrow();
            return status;
        });
        return info;
    }
    // Deletes payload files that nothing retained needs.
    collect_report collect(const collect_options &options = {})
    {
        blyan_collect_options raw;
        detail::check(blyan_collect_options_init(&raw, sizeof raw));
        detail::some(options.roots, raw.roots, raw.roots_len);
        raw.dry_run = options.dry_run;
        raw.cancel = options.cancel == nullptr ? nullptr : options.cancel->get();
        auto found = detail::make<detail::handle<blyan_collect_report, blyan_collect_report_free>>(
            [&](auto *out) { return blyan_chain_collect(get(), &raw, out); });
        collect_report report{};
        static_cast<blyan_collect_info &>(report) =
            detail::describe<blyan_collect_info>([&](auto *out, std::size_t size) {
                return blyan_collect_report_describe(found.get(), out, size);
            });
        for (std::size_t i = 0; i < report.blocks_len; i++)
            report.blocks.push_back(detail::value<blyan_hash>(
                [&](auto *out) { return blyan_collect_report_block(found.get(), i, out); }));
        return report;
    }

    verify_report verify(bool full = true, const progress_fn &on_progress = nullptr,
                         const blyan::cancel *cancel = nullptr) const
    {
        blyan_verify_options raw;
        detail::check(blyan_verify_options_init(&raw, sizeof raw));
        raw.full = full;
        auto found = detail::watched<detail::handle<blyan_verify_report, blyan_verify_report_free>>(
            raw, on_progress, cancel, [&](auto *out) { return blyan_chain_verify(get(), &raw, out); });
        const auto info = detail::describe<blyan_verify_info>([&](auto *out, std::size_t size) {
            return blyan_verify_report_describe(found.get(), out, size);
        });
        verify_report report;
        report.blocks = info.blocks;
        report.payload_bytes = info.payload_bytes;
        for (std::size_t i = 0; i < info.bad_len; i++) {
            const auto bad = detail::describe<blyan_bad_block>([&](auto *out, std::size_t size) {
                return blyan_verify_report_bad(found.get(), i, out, size);
            });
            report.bad.push_back({bad.block, detail::copy(bad.name), detail::copy(bad.reason)});
        }
        for (std::size_t i = 0; i < info.collected_len; i++)
            report.collected.push_back(detail::value<blyan_hash>(
                [&](auto *out) { return blyan_verify_report_collected(found.get(), i, out); }));
        return report;
    }

    import_report import_checkpoint(std::string_view dir, const import_options &options = {})
    {
        const std::vector<blyan_str> keys = detail::texts(options.ignore_config_keys);
        blyan_import_options raw;
        detail::check(blyan_import_options_init(&raw, sizeof raw));
        raw.dtype = options.dtype;
        raw.rope_frequencies = options.rope_frequencies;
        raw.dry_run = options.dry_run;
        raw.ignore_config_keys = keys.data();
        raw.ignore_config_keys_len = keys.size();
        const blyan_str given = detail::text(dir);
        auto found = detail::watched<detail::handle<blyan_import_report, blyan_import_report_free>>(
            raw, options.on_progress, options.cancel,
            [&](auto *out) { return blyan_import_checkpoint(get(), given.data, given.len, &raw, out); });
        import_report report{};
        static_cast<blyan_import_info &>(report) =
            detail::describe<blyan_import_info>([&](auto *out, std::size_t size) {
                return blyan_import_report_describe(found.get(), out, size);
            });
        for (std::size_t i = 0; i < report.ignored_files_len; i++)
            report.ignored_files.push_back(detail::copy(detail::value<blyan_str>(
                [&](auto *out) { return blyan_import_report_ignored_file(found.get(), i, out); })));
        return report;
    }

    export_report export_checkpoint(const hash &model, std::string_view dir,
                                    const export_options &options = {}) const
    {
        blyan_export_options raw;
        detail::check(blyan_export_options_init(&raw, sizeof raw));
        raw.overwrite = options.overwrite;
        raw.max_shard_bytes = detail::count(options.max_shard_bytes);
        const blyan_str given = detail::text(dir);
        auto found = detail::watched<detail::handle<blyan_export_report, blyan_export_report_free>>(
            raw, options.on_progress, options.cancel, [&](auto *out) {
                return blyan_export_checkpoint(get(), &model, given.data, given.len, &raw, out);
            });
        export_report report{};
        static_cast<blyan_export_info &>(report) =
            detail::describe<blyan_export_info>([&](auto *out, std::size_t size) {
                return blyan_export_report_describe(found.get(), out, size);
            });
        for (std::size_t i = 0; i < report.files_len; i++)
            report.files.push_back(detail::copy(detail::value<blyan_str>(
                [&](auto *out) { return blyan_export_report_file(found.get(), i, out); })));
        return report;
    }

private:
    using handle = detail::handle<blyan_chain, blyan_chain_free>;
    explicit chain(handle taken) : handle_(std::move(taken)) {}
    template <class Call>
    static blyan::blocks walk(Call call)
    {
        return blyan::blocks(detail::make<detail::handle<blyan_blocks, blyan_blocks_free>>(call).release());
    }
    template <class Call>
    static std::vector<blyan::block> list(Call call)
    {
        auto found = detail::make<detail::handle<blyan_block_list, blyan_block_list_free>>(call);
        std::vector<blyan::block> blocks;
        for (std::size_t i = 0; i < blyan_block_list_len(found.get()); i++) {
            blyan_block *block = nullptr;
            detail::check(blyan_block_list_get(found.get(), i, &block));
            blocks.emplace_back(block);
        }
        return blocks;
    }
    handle handle_;
};

struct slot_change {
    std::string name;
    std::optional<hash> before, after;
};
// How one tensor differs: norms of its values after minus those before.
struct tensor_diff {
    std::string name;
    std::int32_t before_dtype, after_dtype; // BLYAN_DTYPE_KEEP where it is not there
    std::vector<std::size_t> before_shape, after_shape;
    std::optional<double> norm, relative_norm, max_abs;
};
struct slot_diff {
    std::string name;
    std::optional<hash> before, after;
    std::uint64_t before_bytes, after_bytes;
    bool same_payload;
    std::vector<tensor_diff> tensors;
};
// How two models differ.
struct comparison : blyan_comparison_info {
    std::vector<slot_diff> slots;
};
struct compare_options {
    bool distances = false;
    // Tokens on which the losses of both are measured, in windows of so many; none if empty.
    std::vector<std::uint32_t> tokens;
    std::uint64_t window = 256;
    progress_fn on_progress;
    const blyan::cancel *cancel = nullptr;
};
struct slot {
    std::string name;
    hash block, payload;
    std::uint64_t payload_bytes;
};

// One model: a spec and a block for each slot.
class snapshot {
public:
    explicit snapshot(blyan_snapshot *taken) : handle_(taken) {}
    // The chain's only model, or the one that is named.
    static snapshot open(const chain &chain, std::optional<hash> model = std::nullopt)
    {
        return made([&](auto *out) { return blyan_snapshot_open(chain.get(), model ? &*model : nullptr, out); });
    }
    // What a manifest pins; it follows `base` if it is published.
    static snapshot of_manifest(
        const chain &chain, std::string_view json, std::optional<hash> base = std::nullopt)
    {
        const blyan_str given = detail::text(json);
        return made([&](auto *out) {
            return blyan_snapshot_of_manifest(chain.get(), given.data, given.len, base ? &*base : nullptr, out);
        });
    }
    snapshot with_block(const chain &chain, const hash &block) const
    {
        return made([&](auto *out) { return blyan_snapshot_with_block(get(), chain.get(), &block, out); });
    }
    blyan_snapshot_info info() const
    {
        return detail::describe<blyan_snapshot_info>(
            [&](auto *out, std::size_t size) { return blyan_snapshot_describe(get(), out, size); });
    }
    std::vector<slot> slots() const
    {
        std::vector<slot> slots;
        for (std::size_t i = 0; i < info().slots_len; i++) {
            const auto raw = detail::describe<blyan_slot>(
                [&](auto *out, std::size_t size) { return blyan_snapshot_slot(get(), i, out, size); });
            slots.push_back({detail::copy(raw.name), raw.block, raw.payload, raw.payload_bytes});
        }
        return slots;
    }
    std::string spec_json() const
    {
        return detail::make_text([&](auto *out) { return blyan_snapshot_spec_json(get(), out); });
    }
    std::string manifest_json() const
    {
        return detail::make_text([&](auto *out) { return blyan_snapshot_manifest_json(get(), out); });
    }
    hash model_block(const chain &chain) const
    {
        return detail::value<blyan_hash>(
            [&](auto *out) { return blyan_snapshot_model_block(get(), chain.get(), out); });
    }
    hash publish(chain &chain) const
    {
        return detail::value<blyan_hash>(
            [&](auto *out) { return blyan_snapshot_publish(get(), chain.get(), out); });
    }
    std::vector<slot_change> diff(const snapshot &after) const
    {
        auto list = detail::make<detail::handle<blyan_slot_changes, blyan_slot_changes_free>>(
            [&](auto *out) { return blyan_snapshot_diff(get(), after.get(), out); });
        std::vector<slot_change> changes;
        for (std::size_t i = 0; i < blyan_slot_changes_len(list.get()); i++) {
            const auto raw = detail::describe<blyan_slot_change>([&](auto *out, std::size_t size) {
                return blyan_slot_changes_get(list.get(), i, out, size);
            });
            slot_change change{detail::copy(raw.name), std::nullopt, std::nullopt};
            if (raw.has_before)
                change.before = raw.before;
            if (raw.has_after)
                change.after = raw.after;
            changes.push_back(std::move(change));
        }
        return changes;
    }
    // As diff, with what the change costs in bytes, how far the weights moved and what both lose on tokens.
    comparison compare(const chain &chain, const snapshot &after, const compare_options &options = {}) const
    {
        blyan_compare_options raw;
        detail::check(blyan_compare_options_init(&raw, sizeof raw));
        raw.distances = options.distances;
        raw.tokens = options.tokens.empty() ? nullptr : options.tokens.data();
        raw.tokens_len = options.tokens.size();
        raw.window = options.window;
        const auto found = detail::watched<detail::handle<blyan_comparison, blyan_comparison_free>>(
            raw, options.on_progress, options.cancel,
            [&](auto *out) { return blyan_chain_compare(chain.get(), get(), after.get(), &raw, out); });
        comparison comparison{};
        static_cast<blyan_comparison_info &>(comparison) =
            detail::describe<blyan_comparison_info>([&](auto *out, std::size_t size) {
                return blyan_comparison_describe(found.get(), out, size);
            });
        for (std::size_t i = 0; i < comparison.slots_len; i++)
            comparison.slots.push_back(slot_of(found.get(), i));
        return comparison;
    }
    blyan_snapshot *get() const noexcept { return handle_.get(); }

private:
    using handle = detail::handle<blyan_snapshot, blyan_snapshot_free>;
    template <class Call>
    static snapshot made(Call call)
    {
        return snapshot(detail::make<handle>(call).release());
    }
    static slot_diff slot_of(const blyan_comparison *comparison, std::size_t index)
    {
        const auto raw = detail::describe<blyan_slot_diff>([&](auto *out, std::size_t size) {
            return blyan_comparison_slot(comparison, index, out, size);
        });
        slot_diff slot{detail::copy(raw.name), std::nullopt,          std::nullopt,
                       raw.before_bytes,       raw.after_bytes,       raw.same_payload != 0,
                       std::vector<tensor_diff>()};
        if (raw.has_before)
            slot.before = raw.before;
        if (raw.has_after)
            slot.after = raw.after;
        for (std::size_t i = 0; i < raw.tensors_len; i++)
            slot.tensors.push_back(tensor_of(comparison, index, i));
        return slot;
    }
    static tensor_diff tensor_of(const blyan_comparison *comparison, std::size_t slot, std::size_t index)
    {
        const auto raw = detail::describe<blyan_tensor_diff>([&](auto *out, std::size_t size) {
            return blyan_comparison_tensor(comparison, slot, index, out, size);
        });
        tensor_diff tensor{};
        tensor.name = detail::copy(raw.name);
        tensor.before_dtype = raw.before_dtype;
        tensor.after_dtype = raw.after_dtype;
        tensor.before_shape.assign(raw.before_dims, raw.before_dims + raw.before_rank);
        tensor.after_shape.assign(raw.after_dims, raw.after_dims + raw.after_rank);
        if (raw.has_distance) {
            tensor.norm = raw.norm;
            tensor.max_abs = raw.max_abs;
        }
        if (raw.has_relative_norm)
            tensor.relative_norm = raw.relative_norm;
        return tensor;
    }
    handle handle_;
};

// How a model is opened.
struct model_options {
    std::optional<hash> model;
    std::optional<std::uint64_t> threads;
    std::uint64_t prefill_chunk = 512;
    std::string isa; // empty: the best
    std::int32_t kv_cache = BLYAN_KV_CACHE_F16;
    bool persist_usage = true;
    bool trust_verified = false;
    std::string name; // empty: none; as chain::find_model takes it, not beside model
    std::vector<hash> overlay; // blocks to try, each in the slot that its name says

    // For C; points into this.
    blyan_model_options raw() const
    {
        blyan_model_options raw;
        detail::check(blyan_model_options_init(&raw, sizeof raw));
        raw.model = model ? &*model : nullptr;
        raw.threads = detail::count(threads);
        raw.prefill_chunk = prefill_chunk;
        if (!isa.empty())
            raw.isa = detail::text(isa);
        raw.kv_cache = kv_cache;
        raw.persist_usage = persist_usage;
        raw.trust_verified = trust_verified;
        if (!name.empty())
            raw.name = detail::text(name);
        raw.overlay = overlay.data();
        raw.overlay_len = overlay.size();
        return raw;
    }
};

struct difference {
    std::string path, claimed, recomputed, message;
};

// What was run and what came out.
class receipt {
public:
    explicit receipt(blyan_receipt *taken) : handle_(taken) {}
    static receipt from_json(std::string_view json)
    {
        const blyan_str given = detail::text(json);
        return receipt(detail::make<handle>([&](auto *out) {
                           return blyan_receipt_from_json(given.data, given.len, out);
                       }).release());
    }
    // Seals what a receipt has as its "claim".
    static receipt of_claim(std::string_view json)
    {
        const blyan_str given = detail::text(json);
        return receipt(detail::make<handle>([&](auto *out) {
                           return blyan_receipt_of_claim(given.data, given.len, out);
                       }).release());
    }
    std::string to_json() const
    {
        return detail::make_text([&](auto *out) { return blyan_receipt_to_json(get(), out); });
    }
    // Its pointers live as long as this.
    blyan_receipt_info info() const
    {
        return detail::describe<blyan_receipt_info>(
            [&](auto *out, std::size_t size) { return blyan_receipt_describe(get(), out, size); });
    }
    std::vector<std::pair<std::string, hash>> blocks() const
    {
        std::vector<std::pair<std::string, hash>> blocks;
        for (std::size_t i = 0; i < info().blocks_len; i++) {
            blyan_str slot;
            blyan_hash block;
            detail::check(blyan_receipt_block(get(), i, &slot, &block));
            blocks.emplace_back(detail::copy(slot), block);
        }
        return blocks;
    }
    // Runs it again; empty if it is true.
    std::vector<difference> replay(const chain &chain, const model_options &options = {}) const
    {
        const blyan_model_options raw = options.raw();
        return differences([&](auto *out) { return blyan_receipt_replay(get(), chain.get(), &raw, out); });
    }
    std::vector<difference> diff(const receipt &recomputed) const
    {
        return differences([&](auto *out) { return blyan_receipt_diff(get(), recomputed.get(), out); });
    }
    blyan_receipt *get() const noexcept { return handle_.get(); }

private:
    using handle = detail::handle<blyan_receipt, blyan_receipt_free>;
    template <class Call>
    static std::vector<difference> differences(Call call)
    {
        auto list = detail::make<detail::handle<blyan_differences, blyan_differences_free>>(call);
        std::vector<difference> differences;
        for (std::size_t i = 0; i < blyan_differences_len(list.get()); i++) {
            const auto raw = detail::describe<blyan_difference>([&](auto *out, std::size_t size) {
                return blyan_differences_get(list.get(), i, out, size);
            });
            differences.push_back({detail::copy(raw.path), detail::copy(raw.claimed),
                                   detail::copy(raw.recomputed), detail::copy(raw.message)});
        }
        return differences;
    }
    handle handle_;
};

// What to continue: a text, or token ids. Points to them.
struct prompt : blyan_prompt {
    prompt(const char *text) : prompt(std::string_view(text)) {}
    prompt(const std::string &text) : prompt(std::string_view(text)) {}
    prompt(std::string_view text)
        : blyan_prompt{detail::text(text).data, text.size(), nullptr, 0}
    {
    }
    prompt(const std::vector<std::uint32_t> &tokens)
        : blyan_prompt{nullptr, 0, tokens.empty() ? none() : tokens.data(), tokens.size()}
    {
    }

private:
    static const std::uint32_t *none()
    {
        static const std::uint32_t nothing = 0;
        return &nothing;
    }
};

struct logprobs {
    blyan_token_logprob chosen{};
    std::vector<blyan_token_logprob> top;

    logprobs(const blyan_logprobs &raw) : chosen(raw.chosen), top(raw.top, raw.top + raw.top_len) {}
};

// Text that became certain with one token.
struct piece {
    std::string text;
    std::uint32_t token = 0;
    std::int32_t finish_reason = BLYAN_FINISH_REASON_NONE;
    std::optional<blyan::logprobs> logprobs;

    explicit piece(const blyan_piece &raw)
        : text(detail::copy(raw.text)), token(raw.token), finish_reason(raw.finish_reason)
    {
        if (raw.logprobs != nullptr)
            logprobs = *raw.logprobs;
    }
};

struct generate_options {
    std::optional<std::uint64_t> max_tokens, top_k, logprobs;
    std::uint64_t seed = 0;
    float temperature = 0, top_p = 1, min_p = 0, repetition_penalty = 1;
    std::vector<std::string> stop;
    bool ignore_eos = false;
    // Hears of each token; false stops, and what there is so far is the result.
    std::function<bool(const piece &)> on_token;
    const blyan::cancel *cancel = nullptr;
};

namespace detail {

// Options as C takes them, with what they point to.
struct asked {
    std::vector<blyan_str> stop;
    callback<piece> token;
    blyan_generate_options raw;

    explicit asked(const generate_options &options)
        : stop(texts(options.stop)), token{options.on_token, nullptr}
    {
        check(blyan_generate_options_init(&raw, sizeof raw));
        raw.max_tokens = count(options.max_tokens);
        raw.top_k = count(options.top_k);
        raw.logprobs = count(options.logprobs);
        raw.seed = options.seed;
        raw.temperature = options.temperature;
        raw.top_p = options.top_p;
        raw.min_p = options.min_p;
        raw.repetition_penalty = options.repetition_penalty;
        raw.stop = stop.data();
        raw.stop_len = stop.size();
        raw.ignore_eos = options.ignore_eos;
        raw.cancel = options.cancel == nullptr ? nullptr : options.cancel->get();
        if (options.on_token) {
            raw.on_token = callback<piece>::call<blyan_piece>;
            raw.user = &token;
        }
    }
    asked(const asked &) = delete;
    asked &operator=(const asked &) = delete;
};

} // namespace detail

// A finished generation.
class generation {
public:
    explicit generation(blyan_generation *taken) : handle_(taken) {}
    std::string text() const { return detail::copy(info().text); }
    std::vector<std::uint32_t> tokens() const
    {
        const blyan_generation_info found = info();
        return {found.tokens, found.tokens + found.tokens_len};
    }
    std::int32_t finish_reason() const { return info().finish_reason; }
    const char *finish_reason_name() const { return blyan_finish_reason_name(finish_reason()); }
    std::size_t prompt_tokens() const { return info().prompt_tokens; }
    std::vector<blyan::logprobs> logprobs() const
    {
        std::vector<blyan::logprobs> all;
        for (std::size_t i = 0; i < info().logprobs_len; i++)
            all.emplace_back(detail::describe<blyan_logprobs>([&](auto *out, std::size_t size) {
                return blyan_generation_logprobs(handle_.get(), i, out, size);
            }));
        return all;
    }
    blyan::receipt receipt() const
    {
        blyan_receipt *found = nullptr;
        detail::check(blyan_generation_receipt(handle_.get(), &found));
        return blyan::receipt(found);
    }
    // Its pointers live as long as this.
    blyan_generation_info info() const
    {
        return detail::describe<blyan_generation_info>([&](auto *out, std::size_t size) {
            return blyan_generation_describe(handle_.get(), out, size);
        });
    }

    // What a call gives; that a callback stopped it is in the finish reason.
    template <class Call>
    static generation made(detail::asked &asked, Call call)
    {
        blyan_generation *found = nullptr;
        const blyan_status status = call(&asked.raw, &found);
        generation owner(found);
        asked.token.rethrow();
        if (status != BLYAN_STATUS_STOPPED)
            detail::check(status);
        return owner;
    }

private:
    detail::handle<blyan_generation, blyan_generation_free> handle_;
};

// A generation under way: for (const blyan::piece &piece : stream).
class stream {
public:
    explicit stream(blyan_stream *taken) : handle_(taken) {}
    std::optional<piece> next()
    {
        blyan_piece raw;
        if (detail::check(blyan_stream_next(handle_.get(), &raw, sizeof raw)) == BLYAN_STATUS_END)
            return std::nullopt;
        return piece(raw);
    }
    generation finish()
    {
        blyan_generation *found = nullptr;
        detail::check(blyan_stream_finish(handle_.get(), &found));
        return generation(found);
    }

    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = piece;
        using difference_type = std::ptrdiff_t;
        using pointer = const piece *;
        using reference = const piece &;
        iterator() = default;
        explicit iterator(stream *stream) : stream_(stream) { ++*this; }
        reference operator*() const { return *piece_; }
        pointer operator->() const { return &*piece_; }
        iterator &operator++()
        {
            piece_ = stream_->next();
            if (!piece_)
                stream_ = nullptr;
            return *this;
        }
        friend bool operator==(const iterator &a, const iterator &b) { return a.stream_ == b.stream_; }
        friend bool operator!=(const iterator &a, const iterator &b) { return a.stream_ != b.stream_; }

    private:
        stream *stream_ = nullptr;
        std::optional<piece> piece_;
    };
    iterator begin() { return iterator(this); }
    iterator end() { return iterator(); }

private:
    detail::handle<blyan_stream, blyan_stream_free> handle_;
};

// Generations that share one KV cache.
class session {
public:
    explicit session(blyan_session *taken) : handle_(taken) {}
    generation generate(const prompt &prompt, const generate_options &options = {})
    {
        detail::asked asked(options);
        return generation::made(asked, [&](const blyan_generate_options *raw, blyan_generation **out) {
            return blyan_session_generate(handle_.get(), &prompt, raw, out);
        });
    }
    // Has the session until it is finished or destroyed.
    blyan::stream stream(const prompt &prompt, const generate_options &options = {})
    {
        detail::asked asked(options);
        blyan_stream *begun = nullptr;
        detail::check(blyan_session_stream(handle_.get(), &prompt, &asked.raw, &begun));
        return blyan::stream(begun);
    }
    std::vector<std::uint32_t> tokens() const
    {
        return detail::make_tokens([&](auto *out) { return blyan_session_tokens(handle_.get(), out); });
    }
    std::size_t cache_bytes() const
    {
        return detail::value<std::size_t>(
            [&](auto *out) { return blyan_session_cache_bytes(handle_.get(), out); });
    }
    void truncate(std::size_t len) { detail::check(blyan_session_truncate(handle_.get(), len)); }

private:
    detail::handle<blyan_session, blyan_session_free> handle_;
};

struct expert_usage : blyan_expert_usage {
    std::string name;

    explicit expert_usage(const blyan_expert_usage &raw) : blyan_expert_usage(raw), name(detail::copy(raw.slot))
    {
        slot = {nullptr, 0}; // it went with the list
    }
};

// What a chat template is given beside messages: JSON texts, empty for none.
struct chat_options {
    std::string tools, documents, variables, template_name;
    blyan_time now{};

    // For C; points into this.
    blyan_chat_options raw() const
    {
        blyan_chat_options raw;
        detail::check(blyan_chat_options_init(&raw, sizeof raw));
        const std::pair<const std::string *, blyan_str *> texts[] = {{&tools, &raw.tools},
                                                                     {&documents, &raw.documents},
                                                                     {&variables, &raw.variables},
                                                                     {&template_name, &raw.template_name}};
        for (const auto &[given, place] : texts)
            if (!given->empty())
                *place = detail::text(*given);
        raw.now = now;
        return raw;
    }
};

// A model opened from a chain.
class model {
public:
    explicit model(const chain &chain, const model_options &options = {})
    {
        const blyan_model_options raw = options.raw();
        handle_ = detail::make<handle>([&](auto *out) { return blyan_model_open(chain.get(), &raw, out); });
    }
    model(const chain &chain, const blyan::snapshot &snapshot, const model_options &options = {})
    {
        const blyan_model_options raw = options.raw();
        handle_ = detail::make<handle>([&](auto *out) {
            return blyan_model_open_snapshot(chain.get(), snapshot.get(), &raw, out);
        });
    }
    blyan_model *get() const noexcept { return handle_.get(); }
    // Its texts live as long as this.
    blyan_model_info info() const
    {
        return detail::describe<blyan_model_info>(
            [&](auto *out, std::size_t size) { return blyan_model_describe(get(), out, size); });
    }
    blyan_residency residency() const
    {
        return detail::describe<blyan_residency>(
            [&](auto *out, std::size_t size) { return blyan_model_residency(get(), out, size); });
    }
    blyan::snapshot snapshot() const
    {
        blyan_snapshot *found = nullptr;
        detail::check(blyan_model_snapshot(get(), &found));
        return blyan::snapshot(found);
    }

    generation generate(const prompt &prompt, const generate_options &options = {}) const
    {
        detail::asked asked(options);
        return generation::made(asked, [&](const blyan_generate_options *raw, blyan_generation **out) {
            return blyan_model_generate(get(), &prompt, raw, out);
        });
    }
    std::vector<generation> generate_batch(const std::vector<prompt> &prompts,
                                           const generate_options &options = {}) const
    {
        const std::vector<blyan_prompt> raw(prompts.begin(), prompts.end());
        detail::asked asked(options);
        auto list = detail::make<detail::handle<blyan_generations, blyan_generations_free>>([&](auto *out) {
            return blyan_model_generate_batch(get(), raw.data(), raw.size(), &asked.raw, out);
        });
        std::vector<generation> generations;
        for (std::size_t i = 0; i < blyan_generations_len(list.get()); i++) {
            blyan_generation *found = nullptr;
            detail::check(blyan_generations_get(list.get(), i, &found));
            generations.emplace_back(found);
        }
        return generations;
    }
    blyan::stream stream(const prompt &prompt, const generate_options &options = {}) const
    {
        detail::asked asked(options);
        blyan_stream *begun = nullptr;
        detail::check(blyan_model_stream(get(), &prompt, &asked.raw, &begun));
        return blyan::stream(begun);
    }
    blyan::session session() const
    {
        blyan_session *begun = nullptr;
        detail::check(blyan_model_session(get(), &begun));
        return blyan::session(begun);
    }

    // Answers a conversation, a JSON array of messages.
    generation chat(std::string_view messages, const generate_options &options = {},
                    const chat_options &chat = {}) const
    {
        const blyan_chat_options raw_chat = chat.raw();
        const blyan_str given = detail::text(messages);
        detail::asked asked(options);
        return generation::made(asked, [&](const blyan_generate_options *raw, blyan_generation **out) {
            return blyan_model_chat(get(), given.data, given.len, &raw_chat, raw, out);
        });
    }
    blyan::stream chat_stream(std::string_view messages, const generate_options &options = {},
                              const chat_options &chat = {}) const
    {
        const blyan_chat_options raw_chat = chat.raw();
        const blyan_str given = detail::text(messages);
        detail::asked asked(options);
        blyan_stream *begun = nullptr;
        detail::check(blyan_model_chat_stream(get(), given.data, given.len, &raw_chat, &asked.raw, &begun));
        return blyan::stream(begun);
    }
    std::string chat_prompt(std::string_view messages, bool add_generation_prompt,
                            const chat_options &chat = {}) const
    {
        const blyan_chat_options raw = chat.raw();
        const blyan_str given = detail::text(messages);
        return detail::make_text([&](auto *out) {
            return blyan_model_chat_prompt(get(), given.data, given.len, &raw, add_generation_prompt, out);
        });
    }

    // Names of its chat templates, as a JSON array.
    std::string chat_templates_json() const
    {
        return detail::make_text([&](auto *out) { return blyan_model_chat_templates_json(get(), out); });
    }
    // Such as that of "bos_token".
    std::string special_token(std::string_view name) const
    {
        const blyan_str given = detail::text(name);
        return detail::make_text(
            [&](auto *out) { return blyan_model_special_token(get(), given.data, given.len, out); });
    }

    // (tokens, vocab_size), row-major.
    std::vector<float> logits(const std::vector<std::uint32_t> &tokens) const
    {
        std::vector<float> logits(tokens.size() * static_cast<std::size_t>(info().vocab_size));
        detail::check(
            blyan_model_logits(get(), tokens.data(), tokens.size(), logits.data(), logits.size()));
        return logits;
    }
    // Special tokens are those that every text of the model starts or ends with.
    std::vector<std::uint32_t> tokenize(std::string_view text, bool add_special_tokens = true) const
    {
        const blyan_str given = detail::text(text);
        return detail::make_tokens([&](auto *out) {
            return blyan_model_tokenize(get(), given.data, given.len, add_special_tokens, out);
        });
    }
    std::string detokenize(const std::vector<std::uint32_t> &tokens, bool skip_special_tokens = true) const
    {
        return detail::make_text([&](auto *out) {
            return blyan_model_detokenize(get(), tokens.data(), tokens.size(), skip_special_tokens, out);
        });
    }
    std::size_t count_tokens(std::string_view text, bool add_special_tokens = true) const
    {
        const blyan_str given = detail::text(text);
        return detail::value<std::size_t>([&](auto *out) {
            return blyan_model_count_tokens(get(), given.data, given.len, add_special_tokens, out);
        });
    }
    std::uint32_t token_id(std::string_view token) const
    {
        const blyan_str given = detail::text(token);
        return detail::value<std::uint32_t>(
            [&](auto *out) { return blyan_model_token_id(get(), given.data, given.len, out); });
    }
    std::string token(std::uint32_t id) const
    {
        return detail::make_text([&](auto *out) { return blyan_model_token(get(), id, out); });
    }

    std::vector<expert_usage> usage_top(std::size_t n) const
    {
        return experts([&](auto *out) { return blyan_usage_top(get(), n, out); });
    }
    std::vector<expert_usage> usage() const
    {
        return experts([&](auto *out) { return blyan_usage_experts(get(), out); });
    }
    expert_usage usage(std::string_view slot) const
    {
        const blyan_str given = detail::text(slot);
        return experts([&](auto *out) { return blyan_usage_expert(get(), given.data, given.len, out); }).at(0);
    }
    std::vector<blyan_co_use> co_use() const
    {
        auto list = detail::make<detail::handle<blyan_co_uses, blyan_co_uses_free>>(
            [&](auto *out) { return blyan_usage_co_use(get(), out); });
        std::vector<blyan_co_use> pairs;
        for (std::size_t i = 0; i < blyan_co_uses_len(list.get()); i++)
            pairs.push_back(detail::value<blyan_co_use>(
                [&](auto *out) { return blyan_co_uses_get(list.get(), i, out); }));
        return pairs;
    }
    std::string usage_json() const
    {
        return detail::make_text([&](auto *out) { return blyan_usage_json(get(), out); });
    }
    void usage_reset() const { detail::check(blyan_usage_reset(get())); }
    void usage_flush() const { detail::check(blyan_usage_flush(get())); }

private:
    using handle = detail::handle<blyan_model, blyan_model_free>;
    template <class Call>
    static std::vector<expert_usage> experts(Call call)
    {
        auto list = detail::make<detail::handle<blyan_experts, blyan_experts_free>>(call);
        std::vector<expert_usage> experts;
        for (std::size_t i = 0; i < blyan_experts_len(list.get()); i++)
            experts.emplace_back(detail::describe<blyan_expert_usage>([&](auto *out, std::size_t size) {
                return blyan_experts_get(list.get(), i, out, size);
            }));
        return experts;
    }
    handle handle_;
};

} // namespace blyan

template <>
struct std::hash<blyan::hash> {
    std::size_t operator()(const blyan::hash &hash) const noexcept
    {
        std::size_t start;
        std::memcpy(&start, hash.bytes, sizeof start);
        return start;
    }
};

#include "blyan_evolve.hpp"
#include "blyan_learn.hpp"

#endif // BLYAN_HPP
