// The scripted session of blyan-core/examples/session.rs in C++: prints the same JSON, byte for byte.
//
//     session MODEL_DIR EMPTY_DIR

#include <blyan.hpp>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

const char PROMPT[] = "In the beginning";

// Values of JSON as the texts that they are written as, nested ones without their indent.
std::string indented(const std::string &json)
{
    std::string out;
    for (const char c : json) {
        out += c;
        if (c == '\n')
            out += "  ";
    }
    return out;
}

std::string list(const std::vector<std::string> &items, char open = '[', char close = ']')
{
    if (items.empty())
        return {open, close};
    std::string out(1, open);
    for (std::size_t i = 0; i < items.size(); i++)
        out += (i == 0 ? "\n  " : ",\n  ") + indented(items[i]);
    return out + "\n" + close;
}

std::string quoted(std::string_view text)
{
    std::string out = "\"";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        const char *const names = "\"\\\b\f\n\r\t", *const letters = "\"\\bfnrt";
        const char *const name = c == '\0' ? nullptr : std::strchr(names, c);
        if (name != nullptr) {
            out += '\\';
            out += letters[name - names];
        } else if (byte < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
            out += escape;
        } else {
            out += c;
        }
    }
    return out + "\"";
}

std::string object(std::initializer_list<std::pair<const char *, std::string>> fields)
{
    std::vector<std::string> items;
    for (const auto &[name, value] : fields)
        items.push_back(quoted(name) + ": " + value);
    return list(items, '{', '}');
}

std::string json(bool value) { return value ? "true" : "false"; }
std::string json(const blyan::hash &hash) { return quoted(hash.hex()); }
template <class Number>
std::string json(Number value)
{
    return std::to_string(value);
}
template <class Items, class Describe>
std::string each(Items &&items, Describe describe)
{
    std::vector<std::string> out;
    for (const auto &item : items)
        out.push_back(describe(item));
    return list(out);
}

std::string verify(const blyan::chain &chain)
{
    const blyan::verify_report report = chain.verify();
    return object({{"ok", json(report.ok())},
                   {"blocks", json(report.blocks)},
                   {"payload_bytes", json(report.payload_bytes)},
                   {"bad", each(report.bad, [](const blyan::bad_block &bad) {
                        return object({{"block", json(bad.block)}, {"reason", quoted(bad.reason)}});
                    })}});
}

std::string blocks(const blyan::chain &chain)
{
    std::vector<std::string> all;
    for (const auto lane : {BLYAN_LANE_META, BLYAN_LANE_PARAMETER, BLYAN_LANE_DATASET})
        for (const blyan::block &block : chain.blocks(lane))
            all.push_back(object({{"hash", json(block.hash)},
                                  {"lane", quoted(std::string(1, "ABD"[block.lane]))},
                                  {"kind", quoted(block.kind_name)},
                                  {"name", quoted(block.name)},
                                  {"height", json(block.height)},
                                  {"payload", json(block.payload)},
                                  {"payload_bytes", json(block.payload_bytes)},
                                  {"parents", json(block.parents.size())}}));
    return list(all);
}

std::string tensor(const blyan::chain &chain)
{
    static const char *const DTYPES[] = {"", "F32", "BF16", "F16", "F8_E4M3", "I8", "I4"};
    const blyan::hash block = chain.heads("layer0.expert1").at(0).hash;
    const blyan::tensors tensors = chain.tensors(block);
    const blyan::tensor tensor = tensors["gate_proj.weight"];
    std::string first;
    std::uint64_t sum = 0;
    for (const std::byte byte : tensor.bytes()) {
        char hex[3];
        std::snprintf(hex, sizeof hex, "%02x", std::to_integer<unsigned>(byte));
        if (first.size() < 32)
            first += hex;
        sum += std::to_integer<std::uint64_t>(byte);
    }
    return object({{"block", json(block)},
                   {"name", quoted(tensor.label())},
                   {"dtype", quoted(DTYPES[tensor.dtype])},
                   {"shape", each(tensor.shape(), json<std::size_t>)},
                   {"nbytes", json(tensor.nbytes)},
                   {"first", quoted(first)},
                   {"sum", json(sum)}});
}

std::string describe(const blyan::generation &generation)
{
    const blyan::receipt receipt = generation.receipt();
    const blyan_receipt_info claim = receipt.info();
    return object({{"prompt", quoted(PROMPT)},
                   {"tokens", each(generation.tokens(), json<std::uint32_t>)},
                   {"text", quoted(generation.text())},
                   {"finish_reason", quoted(generation.finish_reason_name())},
                   {"receipt", json(blyan::hash(claim.hash))},
                   {"logits", json(blyan::hash(claim.logits))}});
}

// What asking for a block that nobody has gives.
std::string not_found(const blyan::chain &chain)
{
    try {
        chain.at(blyan::hash());
    } catch (const blyan::error &error) {
        return object({{"code", quoted(error.status_name())}, {"block", json(error.block().value())}});
    }
    return "null";
}

std::string session(const char *folder, const char *dir)
{
    blyan::chain chain(dir);
    const blyan::import_report imported = chain.import_checkpoint(folder);
    const std::string verified = verify(chain);

    const blyan::model model(chain);
    blyan::generate_options options;
    options.max_tokens = 24;
    const blyan::generation greedy = model.generate(PROMPT, options);
    options.temperature = 0.8f;
    options.top_k = 40;
    options.top_p = 0.95f;
    options.min_p = 0.05f;
    options.repetition_penalty = 1.1f;
    options.seed = 7;
    const blyan::generation seeded = model.generate(PROMPT, options);

    const auto replays = [&](const blyan::generation &generation) {
        return json(generation.receipt().replay(chain).empty());
    };
    return object({{"import", object({{"model", json(blyan::hash(imported.model))},
                                      {"spec", json(blyan::hash(imported.spec))},
                                      {"blocks", json(imported.blocks_new + imported.blocks_known)},
                                      {"new_blocks", json(imported.blocks_new)}})},
                   {"verify", verified},
                   {"blocks", blocks(chain)},
                   {"tensor", tensor(chain)},
                   {"greedy", describe(greedy)},
                   {"seeded", describe(seeded)},
                   {"replay", object({{"greedy", replays(greedy)}, {"seeded", replays(seeded)}})},
                   {"usage", each(model.usage_top(5),
                                  [](const blyan::expert_usage &expert) {
                                      return object({{"slot", quoted(expert.name)},
                                                     {"block", json(blyan::hash(expert.block))},
                                                     {"tokens", json(expert.tokens)}});
                                  })},
                   {"error", not_found(chain)}});
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::cerr << "session MODEL_DIR EMPTY_DIR\n";
        return 2;
    }
    try {
        std::cout << session(argv[1], argv[2]) << "\n";
        return EXIT_SUCCESS;
    } catch (const std::exception &error) {
        std::cerr << "session: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
}
