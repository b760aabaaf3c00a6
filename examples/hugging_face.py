"""Compile a Hugging Face model and let it answer.

    python examples/hugging_face.py MODEL "Why is the sky blue?"

MODEL is a folder with config.json and safetensors, or a .gguf file.
"""

import sys

import burnish

model, prompt = sys.argv[1:3]

with burnish.compile(model) as compiled:
    print(compiled)
    if compiled.tokenizer is not None and compiled.tokenizer.data.chat_template is not None:
        prompt = compiled.chat_ids([{"role": "user", "content": prompt}])
    answer = compiled.generate(prompt, max_new_tokens=64)
    print(answer.text)
    print(f"{answer.tokens_per_second:.0f} tokens a second")
