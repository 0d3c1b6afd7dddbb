export * from './chat';
export * from './config';
export * from './hub';
export * from './model-weights';
export * from './peft';
export * from './safetensors';
export * from './safetensors-writer';
export * from './tokenizer';
export type { SafetensorsDtype, TensorInfo } from './safetensors-header';
