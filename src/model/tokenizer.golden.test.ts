import { readdirSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { goldenPath, readGolden } from '../../test/golden';
import { promptIds, sftExample } from './chat';
import { loadTokenizer } from './tokenizer';
import type { ChatMessage, Tokenizer } from './tokenizer';

interface Encoded {
  text: string;
  ids: number[];
  decoded: string;
  decoded_skip_special: string;
}

interface Cases {
  special_ids: Record<string, number>;
  len_tokenizer: number;
  model_vocab_size: number;
  encode: Encoded[];
  pre_tokenize: { text: string; pieces: string[] }[];
  decode: Omit<Encoded, 'text'>[];
  chat: {
    messages: ChatMessage[];
    add_generation_prompt: boolean;
    enable_thinking: boolean | null;
    text: string;
    ids: number[];
  }[];
  sft_examples: {
    tweet: string;
    reply: string;
    prompt_ids: number[];
    reply_ids_with_end_of_turn: number[];
    labels: number[];
  }[];
}

const cases = readGolden<Cases>('tokenizer-cases.json');

describe.each(readdirSync(goldenPath('tiny-qwen3')))('the tokenizer of %s', (model) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => (tokenizer = await loadTokenizer(goldenPath('tiny-qwen3', model))));

  it('knows its size and special tokens', () => {
    expect(tokenizer.vocabularySize).toBe(cases.len_tokenizer);
    for (const [content, id] of Object.entries(cases.special_ids)) {
      expect(tokenizer.tokenId(content)).toBe(id);
      expect(tokenizer.encode(content)).toEqual([id]);
    }
  });

  it('encodes as Python does', () => {
    expect(cases.encode.map(({ text }) => tokenizer.encode(text))).toEqual(
      cases.encode.map(({ ids }) => ids),
    );
  });

  it('decodes as Python does', () => {
    for (const { ids, decoded, decoded_skip_special } of [...cases.encode, ...cases.decode]) {
      expect(tokenizer.decode(ids)).toBe(decoded);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded_skip_special);
    }
  });

  it('gives no text for the ids between its size and that of the model', () => {
    for (let id = cases.len_tokenizer; id < cases.model_vocab_size; id++)
      expect(tokenizer.decode([id])).toBe('');
  });

  it('applies the chat template as Python does', () => {
    for (const { messages, add_generation_prompt, enable_thinking, text, ids } of cases.chat) {
      const options = {
        addGenerationPrompt: add_generation_prompt,
        ...(enable_thinking === null ? {} : { enableThinking: enable_thinking }),
      };
      expect(tokenizer.chatText(messages, options)).toBe(text);
      expect(tokenizer.applyChatTemplate(messages, options)).toEqual(ids);
    }
  });

  it('makes the SFT examples that Python makes', () => {
    for (const { tweet, reply, prompt_ids, reply_ids_with_end_of_turn, labels } of cases.sft_examples) {
      const example = sftExample(tokenizer, tweet, reply, labels.length);
      expect(example).toEqual({ promptIds: prompt_ids, completionIds: reply_ids_with_end_of_turn });
      expect([...prompt_ids.map(() => -100), ...example.completionIds]).toEqual(labels);
      expect(promptIds(tokenizer, tweet)).toEqual(prompt_ids);
    }
  });

  it('cuts a reply that is too long and takes its end from it, but never cuts a prompt', () => {
    for (const { tweet, reply, prompt_ids, reply_ids_with_end_of_turn: whole } of cases.sft_examples) {
      const cut = (room: number) =>
        sftExample(tokenizer, tweet, reply, prompt_ids.length + room, 'a.jsonl:3');
      for (let room = 1; room <= whole.length; room++) {
        expect(cut(room).completionIds).toEqual(whole.slice(0, room));
      }
      expect(cut(whole.length + 5).completionIds).toEqual(whole);
      expect(() => cut(0)).toThrow(`a.jsonl:3: the prompt has ${prompt_ids.length} tokens`);
    }
  });
});
