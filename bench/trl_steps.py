"""Times TRL's GRPO step, PEFT's SFT step, or generation by transformers, on a processor, as `grpolab bench` times ours.

    python bench/trl_steps.py --model DIR --what grpo|sft|generate --shape P=4,G=4,Tp=96,Tc=48 [--steps 5] [--threads 2]
        [--dtype float32|bfloat16] [--warmup 2]

The same work: LoRA r=16 on the seven projections, base weights (and with bfloat16 activations too) of that type, random prompts of
Tp tokens, completions of exactly Tc tokens at temperature 0.8 and top-p 0.9, KL to the bare model with beta 0.1, one AdamW step,
gradient checkpointing off (TRL's default is on, which is slower). Prints one JSON object: seconds of each step, peak memory, and
the speed of a large matrix product, which bounds any implementation. Needs torch, transformers, peft, and for `grpo` trl and datasets.
"""

import argparse
import json
import os
import resource
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--what", default="grpo", choices=["grpo", "sft", "generate"])
parser.add_argument("--shape", default="P=4,G=4,Tp=96,Tc=48")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=2, help="steps before the measured ones")
parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
options = parser.parse_args()
shape = {name: int(value) for name, value in (part.split("=") for part in options.shape.split(","))}
P, G, TP, TC = (shape[name] for name in ("P", "G", "Tp", "Tc"))
WARM_UP = options.warmup
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# What a library prints belongs on standard error: standard output is the result.
result_output = os.dup(1)
os.dup2(2, 1)
os.environ.update(
    OMP_NUM_THREADS=str(options.threads),
    MKL_NUM_THREADS=str(options.threads),
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="",
    TRL_EXPERIMENTAL_SILENCE="1",
)

import torch  # noqa: E402
import transformers  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

torch.set_num_threads(options.threads)
transformers.logging.set_verbosity_error()


def load():
    return transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))


def lora():
    return LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")


def timed(step, count):
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return seconds[WARM_UP:]


def grpo():
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from trl import GRPOConfig, GRPOTrainer

    model = load()
    size = model.config.vocab_size
    # A word a token: the texts stand for random ids.
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, size)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    total = options.steps + WARM_UP
    ids = torch.randint(3, size, (P * total, TP), generator=torch.Generator().manual_seed(1))
    prompts = [" ".join(f"w{i}" for i in row.tolist()) for row in ids]

    def reward(completions, completion_ids, **_):
        assert all(len(row) == TC for row in completion_ids)
        return [(sum(row) % 997) / 997 for row in completion_ids]

    config = GRPOConfig(
        output_dir=os.path.join(os.environ.get("TMPDIR", "/tmp"), "trl-steps"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=P * G,
        num_generations=G,
        max_completion_length=TC,
        generation_kwargs={"min_new_tokens": TC},
        temperature=0.8,
        top_p=0.9,
        beta=0.1,
        learning_rate=1e-5,
        max_steps=total,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    seconds = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.begin = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - self.begin)
            self.begin = time.perf_counter()

    trainer = GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=wrapped,
        peft_config=lora(),
        callbacks=[Clock()],
    )
    trainer.train()
    return seconds[WARM_UP:]


def sft():
    model = get_peft_model(load(), lora())
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4)

    def step():
        ids = torch.randint(3, model.config.vocab_size, (P * G, TP + TC))
        labels = ids.clone()
        labels[:, :TP] = -100
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return timed(step, options.steps + WARM_UP)


def generate():
    model = get_peft_model(load(), lora())
    model.eval()
    ids = torch.randint(3, model.config.vocab_size, (P, TP)).repeat_interleave(G, 0)

    def step():
        with torch.no_grad():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=0.8,
                top_p=0.9,
                top_k=0,
                min_new_tokens=TC,
                max_new_tokens=TC,
                pad_token_id=0,
            )
        assert made.shape[1] == TP + TC

    return timed(step, options.steps + WARM_UP)


def gemm_gflops(size=2048):
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(12):
        begin = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds) / 1e9


result = {
    "step_s": {"grpo": grpo, "sft": sft, "generate": generate}[options.what](),
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "gemm_gflops": gemm_gflops(),
    "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__},
}
if options.what == "grpo":
    import trl

    result["versions"]["trl"] = trl.__version__
os.write(result_output, (json.dumps(result) + "\n").encode())
