"""Makes chat_golden.jsonl: conversations as token ids and which of them are the assistant's, by transformers'
apply_chat_template with return_assistant_tokens_mask (pip install transformers jinja2).

Usage: make_chat_golden.py SMOLLM2_FOLDER. The vocabularies of Llama 3.1 and Gemma are those of tests/data/tokenizers.
"""
import json
import lzma
import pathlib
import sys
import tempfile

from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
ANSWER = "{% generation %}"
END = "{% endgeneration %}"
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM,"
    " trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}" + ANSWER + "{{ message['content'] + '<|im_end|>' }}" + END +
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'assistant' %}" + ANSWER + "{{ message['content'] | trim + '<|eot_id|>' }}" + END +
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if message['role'] == 'assistant' %}" + ANSWER + "{{ message['content'] | trim + '<end_of_turn>' }}" + END +
    "{% else %}{{ message['content'] | trim + '<end_of_turn>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
SHORT = [("user", "Hi there"), ("assistant", "Hello")]
LONG = [
    ("user", "What is 2 + 2?\nAnd 3 + 3?"),
    ("assistant", "  4, and then 6.\n\nAnything else?  \n"),
    ("user", "Übersetze: \"good morning\" 🙂"),
    ("assistant", "Guten Morgen! 早上好。"),
    ("user", "    indented\n\tcode"),
    ("assistant", "```c\nint main() {\n  return 0;\n}\n```"),
]
OPEN = LONG[:3]
SYSTEM = [("system", "Answer in one word.")]
CASES = [
    ("smollm2", "chatml", [SHORT, LONG, OPEN, SYSTEM + SHORT, SYSTEM + LONG]),
    ("llama3_1", "llama3", [SHORT, LONG, OPEN, SYSTEM + SHORT, SYSTEM + LONG]),
    ("gemini", "gemma", [SHORT, LONG, OPEN]),
]
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA}
BEGIN = {"chatml": None, "llama3": "<|begin_of_text|>", "gemma": "<bos>"}


def load(name):
    if name == "smollm2":
        return PreTrainedTokenizerFast(tokenizer_file=str(pathlib.Path(sys.argv[1]) / "tokenizer.json"))
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(lzma.decompress((HERE.parent / "tokenizers" / name / "tokenizer.json.xz").read_bytes()))
        file.flush()
        return PreTrainedTokenizerFast(tokenizer_file=file.name)


with open(HERE / "chat_golden.jsonl", "w", encoding="utf-8") as out:
    for name, chat_format, conversations in CASES:
        tokenizer = load(name)
        if BEGIN[chat_format]:
            tokenizer.bos_token = BEGIN[chat_format]
        for conversation in conversations:
            messages = [{"role": role, "content": content} for role, content in conversation]
            encoded = tokenizer.apply_chat_template(
                messages, chat_template=TEMPLATES[chat_format], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            row = {
                "tokenizer": name,
                "format": chat_format,
                "messages": messages,
                "ids": encoded["input_ids"],
                "mask": encoded["assistant_masks"],
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
