/**
 * Qwen3-style models: configuration, weights, tokenizer, forward pass, LoRA adapters, and the hub that they come from.
 *
 * Begin with {@link resolveModel}, {@link loadWeights}, {@link loadTokenizer}, {@link readAdapter}.
 * @module
 */

export * from './chat';
export * from './config';
export * from './hub';
export * from './model-weights';
export * from './peft';
export * from './safetensors';
export * from './safetensors-writer';
export * from './tokenizer';
export type { SafetensorsDtype, TensorInfo } from './safetensors-header';
export * from './dropout';
export * from './load';
export * from './lora';
export * from './memory';
export * from './memory-advice';
export type { KeyValues } from './attention';
export type { OutputHead } from './ops';
export type { PanelMatrix, Matrix } from './matrix';
export * from './packed';
export * from './qwen3';
export * from './qwen3-sizes';
export * from './lora-analysis';
