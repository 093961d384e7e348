// Vectors of a GGUF file from llama.cpp, by node-llama-cpp.
// node node_llama_cpp.mjs PACKAGE REQUEST REPLY
import {readFileSync, writeFileSync} from "node:fs";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const [folder, request, reply] = process.argv.slice(2);
const about = JSON.parse(readFileSync(join(folder, "package.json")));
const entry = join(folder, about.exports["."].import ?? about.main);
const {getLlama} = await import(pathToFileURL(entry));
const asked = JSON.parse(readFileSync(request));
// The prebuilt library. One thread: they wait for each other by spinning.
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1});
const model = await llama.loadModel({modelPath: asked.artefact});
// A text must fit into one micro-batch; this package keeps a place free.
const size = asked.longest + 1;
const context = await model.createEmbeddingContext(
  {contextSize: size, batchSize: size}
);
const vectors = [];
for (const item of asked.items)
  vectors.push([...(await context.getEmbeddingFor(item)).vector]);
const versions = {
  "node-llama-cpp": about.version,
  "llama.cpp": llama.llamaCppRelease.release,
};
writeFileSync(reply, JSON.stringify({vectors, versions}));
process.exit(0);  // or the library keeps the process
