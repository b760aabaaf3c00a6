// Greedy generation by onnxruntime-web: node web.cjs MODEL.onnx '{"ids": [...], "count": 16, "states": [...]}'
//
// `states` is the model's metadata burnish.states. Prints the new tokens as a JSON list.
const fs = require("fs");
const ort = require("onnxruntime-web");

const TYPES = { float32: Float32Array, int8: Int8Array, int64: BigInt64Array };

function empty(state) {
  const dims = state.shape.map((size) => (size === "batch_size" ? 1 : size === "past_sequence_length" ? 0 : size));
  const length = dims.reduce((product, size) => product * size, 1);
  return new ort.Tensor(state.dtype, new TYPES[state.dtype](length), dims);
}

function integers(values) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
}

async function main(file, { ids, count, states }) {
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(fs.readFileSync(file), { executionProviders: ["wasm"] });
  let pasts = Object.fromEntries(states.map((state) => [state.past, empty(state)]));
  let given = ids;
  const found = [];
  for (let before = 0; found.length < count; ) {
    const inputs = { ...pasts, input_ids: integers(given) };
    before += given.length;
    if (session.inputNames.includes("attention_mask")) inputs.attention_mask = integers(new Array(before).fill(1));
    const outputs = await session.run(inputs);
    const [, rows, vocabulary] = outputs.logits.dims;
    const last = outputs.logits.data.subarray((rows - 1) * vocabulary, rows * vocabulary);
    found.push(last.reduce((best, score, token) => (score > last[best] ? token : best), 0));
    given = found.slice(-1);
    pasts = Object.fromEntries(states.map((state) => [state.past, outputs[state.present]]));
  }
  console.log(JSON.stringify(found));
}

main(process.argv[2], JSON.parse(process.argv[3]));
