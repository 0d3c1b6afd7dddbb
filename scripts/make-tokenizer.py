"""Development only: trains the shipped model's byte-level BPE tokenizer on the embedded world's text.

usage: make-tokenizer.py CORPUS OUTPUT_DIRECTORY     (needs PyPI's `tokenizers`; CORPUS from make-world.mjs --corpus)
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

corpus, output = sys.argv[1:3]
VOCABULARY = 2048
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
# Words, single digits, runs of marks, white space: the split of the Qwen family.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROMPT = "Generate an engaging Twitter reply to this tweet:\n\n"

tokenizer = Tokenizer(models.BPE())
tokenizer.normalizer = normalizers.NFC()
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
tokenizer.post_processor = processors.ByteLevel(trim_offsets=False, add_prefix_space=False, use_regex=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=VOCABULARY - len(ADDED),
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    min_frequency=5,
    show_progress=False,
)
with open(corpus, encoding="utf-8") as file:
    lines = file.read().split("\n")
chat = [PROMPT, "\n\nReply:", "user\n", "assistant\n", "\n\n", "\n"]
tokenizer.train_from_iterator(lines + chat * 2000, trainer)
tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED[:3]])
tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ADDED[3:]])
os.makedirs(output, exist_ok=True)
tokenizer.save(os.path.join(output, "tokenizer.json"))

TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}"
)
ids = {token: tokenizer.token_to_id(token) for token in ADDED}
config = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "added_tokens_decoder": {
        str(i): {
            "content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": not t.endswith("think>"),
        }
        for t, i in ids.items()
    },
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "bos_token": None,
    "chat_template": TEMPLATE,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "errors": "replace",
    "model_max_length": 1024,
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
}
with open(os.path.join(output, "tokenizer_config.json"), "w", encoding="utf-8") as file:
    json.dump(config, file, indent=2)
    file.write("\n")
size = tokenizer.get_vocab_size()
print(f"{size} tokens; {sum(len(e.ids) for e in tokenizer.encode_batch(lines[:4000])) / 4000:.1f} a line; {ids}")
