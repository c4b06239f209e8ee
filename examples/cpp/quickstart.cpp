// From a checkpoint folder to text: import, list, look into a tensor, stream, meet errors, and use one
// model from two threads.
//
//     quickstart MODEL_DIR [CHAIN_DIR]

#include <blyan.hpp>

#include <cstdlib>
#include <iostream>
#include <numeric>
#include <string>
#include <thread>

namespace {

blyan::import_report import_model(blyan::chain &chain, const char *dir)
{
    blyan::import_options options;
    options.on_progress = [](const blyan::progress &progress) {
        if (progress.blocks == progress.total_blocks)
            std::cout << "imported " << progress.blocks << " blocks, " << progress.bytes
                      << " bytes of payloads\n";
        return true; // false would stop the import
    };
    const blyan::import_report report = chain.import_checkpoint(dir, options);
    std::cout << "model " << blyan::hash(report.model).hex() << "\n";
    return report;
}

void list_experts(const blyan::chain &chain)
{
    int count = 0;
    for (const blyan::block &block : chain.blocks_of_kind(blyan::kind_from_name("expert")))
        if (count++ < 3)
            std::cout << "  " << block.name << ", " << block.payload_bytes << " bytes\n";
    std::cout << "  ... " << count << " experts\n";
}

// Adds up the bytes of a tensor where they are mapped.
void read_tensor(const blyan::chain &chain)
{
    const blyan::tensors tensors = chain.tensors(chain.heads("layer0.expert1").at(0).hash);
    const blyan::tensor tensor = tensors["gate_proj.weight"];
    const auto bytes = tensor.as<std::uint16_t>(); // bf16
    std::uint64_t sum = 0;
    for (const std::uint16_t word : bytes)
        sum += (word & 0xff) + (word >> 8);
    std::cout << tensor.label() << ": " << tensor.shape()[0] << " x " << tensor.shape()[1] << ", "
              << tensor.nbytes << " bytes that add up to " << sum << "\n";
}

void generate(const blyan::chain &chain, const blyan::model &model)
{
    blyan::generate_options options;
    options.max_tokens = 16;
    options.on_token = [](const blyan::piece &piece) {
        std::cout << piece.text << std::flush;
        return true;
    };
    std::cout << "And God said";
    const blyan::generation generation = model.generate("And God said", options);
    std::cout << "\n"
              << generation.tokens().size() << " tokens, ended by " << generation.finish_reason_name() << "\n";

    // Anyone with the same blocks can check what was run.
    std::cout << "replayed: " << generation.receipt().replay(chain).size() << " differences\n";

    // A callback that returns false stops; what there is so far is kept.
    int left = 4;
    options.on_token = [&left](const blyan::piece &piece) {
        std::cout << piece.text << std::flush;
        return --left > 0;
    };
    const blyan::generation stopped = model.generate("And God said", options);
    std::cout << "\nstopped after " << stopped.tokens().size() << " tokens\n";
}

void meet_errors(const blyan::chain &chain, const blyan::model &model)
{
    try {
        chain.at(blyan::hash());
    } catch (const blyan::error &error) {
        std::cout << error.status_name() << ": block " << error.block().value().hex().substr(0, 8) << "...\n";
    }
    try {
        model.generate("\xff");
    } catch (const blyan::error &error) {
        std::cout << error.status_name() << ": " << error.what() << "\n";
    }
}

void use_two_threads(const blyan::model &model)
{
    const char *prompts[] = {"In the beginning", "And the LORD"};
    std::string texts[2];
    auto run = [&](int i) {
        blyan::generate_options options;
        options.max_tokens = 8;
        texts[i] = model.generate(prompts[i], options).text();
    };
    std::thread first(run, 0), second(run, 1);
    first.join();
    second.join();
    for (int i = 0; i < 2; i++)
        std::cout << prompts[i] << ":" << texts[i] << "\n";
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        std::cerr << "quickstart MODEL_DIR [CHAIN_DIR]\n";
        return 2;
    }
    try {
        blyan::check_version();
        auto chain = std::make_unique<blyan::chain>(argc == 3 ? blyan::chain(argv[2])
                                                              : blyan::chain::in_memory());
        import_model(*chain, argv[1]);
        list_experts(*chain);
        read_tensor(*chain);
        const blyan::model model(*chain);
        generate(*chain, model);
        meet_errors(*chain, model);
        chain.reset(); // the model goes on without it
        use_two_threads(model);
        return EXIT_SUCCESS;
    } catch (const std::exception &error) {
        std::cerr << "quickstart: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
}
