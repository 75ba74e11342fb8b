"""Makes the tokenizer of 160 ids that the tests of the commands put beside tests/data/hf/llama_gqa (pip install tokenizers)."""
import json
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = "the quick brown fox jumps over the lazy dog. The Quick Brown Fox Jumps Over The Lazy Dog! system user assistant"
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()-ĠĊÃ©¼"

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=160, special_tokens=[AddedToken(t, special=True) for t in SPECIAL], initial_alphabet=list(ALPHABET)
)
tokenizer.train_from_iterator([TEXT] * 50, trainer)
tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
assert tokenizer.get_vocab_size() <= 160, tokenizer.get_vocab_size()
tokenizer.save(str(HERE / "tokenizer.json"))
config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "<|im_end|>",
    "add_bos_token": True,
    "chat_template": TEMPLATE,
}
(HERE / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
for text in ["the quick fox", "The lazy dog.\nüé"]:
    encoding = tokenizer.encode(text)
    print(json.dumps(text), encoding.ids, json.dumps(tokenizer.decode(encoding.ids)))
