import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cosineSimilarity } from '../metrics/diversity';
import { CheckpointError, ConfigError } from '../runtime/errors';
import { cachedEmbedder } from './embeddings';
import type { Embedder } from './embeddings';
import { LEXICAL_BUCKETS, lexicalCounts, lexicalEmbedder, lexicalVector, loadIdf } from './lexical';
import { minilmEmbedder } from './minilm';

const vectorOf = (text: string): Float32Array => lexicalVector(text, loadIdf());
const likeness = (a: string, b: string): number => cosineSimilarity(vectorOf(a), vectorOf(b));

describe('the lexical embedding', () => {
  it('counts a token and its bounded runs of 3 to 5 characters', () => {
    const sum = (text: string): number => [...lexicalCounts(text).values()].reduce((a, b) => a + b, 0);
    expect(sum('cat')).toBe(7); // cat, <ca cat at>, <cat cat>, <cat>
    expect(sum('a')).toBe(2); // a, <a>
    expect(sum('cat a cat')).toBe(16);
    expect(lexicalCounts('cat').size).toBeGreaterThan(1);
  });

  it('has length 1 and no negative number for any text that is not blank', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', minLength: 1 }), (text) => {
        const vector = vectorOf(`${text} x`);
        expect(vector.length).toBe(LEXICAL_BUCKETS);
        expect(vector.every((value) => value >= 0)).toBe(true);
        expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
      }),
    );
  });

  it('is zero for a blank text, whose cosine is then 0', () => {
    expect(vectorOf(' \n').every((value) => value === 0)).toBe(true);
    expect(likeness('', 'tomato')).toBe(0);
  });

  it('ignores case, and how an accent or a width is encoded', () => {
    expect(vectorOf('CAFÉ Tomato')).toEqual(vectorOf('cafe\u0301 ｔｏｍａｔｏ'));
  });

  it('puts a reply with the same rare word nearer than one with the same common words', () => {
    const tweet = 'I have a question about the sourdough that my neighbour baked';
    const onTopic = likeness(tweet, 'Sourdough wants patience');
    const inflected = likeness(tweet, 'Neighbours bake well');
    const offTopic = likeness(tweet, 'I have a remark about the weather that was not on the news');
    expect(onTopic).toBeGreaterThan(offTopic);
    expect(inflected).toBeGreaterThan(offTopic);
  });

  it('has a committed table of the right size that names its source', () => {
    const table = loadIdf();
    expect(table.document_frequency).toHaveLength(LEXICAL_BUCKETS);
    expect(
      table.document_frequency.every((count) => Number.isInteger(count) && count <= table.documents),
    ).toBe(true);
    expect(table.source).not.toBe('');
  });

  it('has a fingerprint of its table', () => {
    const table = loadIdf();
    const frequencies = table.document_frequency;
    const other = { ...table, document_frequency: [frequencies[0] + 1, ...frequencies.slice(1)] };
    const [ours, again, another] = [table, { ...table }, other].map((each) => lexicalEmbedder(each).source);
    expect(ours?.fingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(again).toEqual(ours);
    expect(another?.fingerprint).not.toBe(ours?.fingerprint);
  });

  it('refuses a table for another number of buckets', () => {
    expect(() => lexicalEmbedder({ source: 'x', documents: 1, document_frequency: [1] })).toThrow(
      ConfigError,
    );
  });
});

describe('the cache', () => {
  const counting = (): { embedder: Embedder; texts: string[] } => {
    const texts: string[] = [];
    const embed = async (text: string): Promise<Float32Array> => {
      texts.push(text);
      if (text === 'bad' && texts.length === 1) throw new Error('no luck');
      return Float32Array.of(text.length);
    };
    return {
      embedder: {
        name: 'counting',
        degraded: 'all of it',
        duplicateCosine: 0.7,
        cosineRange: [0, 1] as const,
        embed,
      },
      texts,
    };
  };

  it('embeds a text once, also for callers at the same moment', async () => {
    const { embedder, texts } = counting();
    const cached = cachedEmbedder(embedder);
    const [a, b] = await Promise.all([cached.embed('one'), cached.embed('one')]);
    expect(b).toBe(a);
    expect(texts).toEqual(['one']);
    expect([cached.name, cached.degraded, cached.duplicateCosine]).toEqual(['counting', 'all of it', 0.7]);
    const source = { kind: 'hub', model: 'a/b', fingerprint: 'f' } as const;
    expect(cachedEmbedder({ ...embedder, source }).source).toEqual(source);
  });

  it('drops the text that was unused for longest', async () => {
    const { embedder, texts } = counting();
    const cached = cachedEmbedder(embedder, 2);
    for (const text of ['a', 'b', 'a', 'c', 'a', 'b']) await cached.embed(text);
    expect(texts).toEqual(['a', 'b', 'c', 'b']);
  });

  it('does not remember a failure', async () => {
    const cached = cachedEmbedder(counting().embedder);
    await expect(cached.embed('bad')).rejects.toThrow('no luck');
    expect(await cached.embed('bad')).toEqual(Float32Array.of(3));
  });
});

describe('MiniLM', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'minilm-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('names the missing folder or files, and what to do', async () => {
    await expect(minilmEmbedder(join(folder, 'absent'))).rejects.toThrow(
      'expected a model directory or a hub id',
    );
    await writeFile(join(folder, 'config.json'), '{}');
    await expect(minilmEmbedder(folder)).rejects.toThrow(
      /has no tokenizer.json, .*model\.onnx; expected .* lexical/,
    );
  });

  it('says of damaged files that they cannot be loaded', async () => {
    await mkdir(join(folder, 'onnx'), { recursive: true });
    for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'onnx/model.onnx']) {
      await writeFile(join(folder, file), '{"model_type": "bert"');
    }
    await expect(minilmEmbedder(folder)).rejects.toThrow(CheckpointError);
  });

  // 90 MB that the repository does not ship: GRPOLAB_MINILM names the folder.
  it.runIf(process.env.GRPOLAB_MINILM)(
    'gives normalised vectors that know meaning, the same in any company',
    async () => {
      const embedder = await minilmEmbedder(process.env.GRPOLAB_MINILM as string);
      const [cat, kitten, tax] = [
        await embedder.embed('The cat sleeps on the sofa'),
        await embedder.embed('A kitten naps on the couch'),
        await embedder.embed('Quarterly taxes are due on Monday'),
      ];
      expect(Math.hypot(...cat)).toBeCloseTo(1, 5);
      expect(cosineSimilarity(cat, kitten)).toBeGreaterThan(cosineSimilarity(cat, tax) + 0.3);
      expect(await embedder.embed('The cat sleeps on the sofa')).toEqual(cat);
      expect(embedder.degraded).toBeUndefined();
      expect(embedder.source).toMatchObject({
        kind: 'directory',
        fingerprint: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
      });
      expect(isAbsolute(embedder.source?.model ?? '')).toBe(true);
    },
  );
});
