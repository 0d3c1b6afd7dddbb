import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PreTrainedTokenizer } from '@xenova/transformers' with { 'resolution-mode': 'import' };
import { z } from 'zod';
import { CheckpointError, messageOf } from '../runtime/errors';
import { TemplateCache, templateFunctions } from './chat-template';
import { parseFile, readGenerationConfig } from './config';
import type { ModelConfig } from './config';
import { shownJson } from './safetensors-header';

/** A turn of a conversation; a chat template may read further fields. */
export interface ChatMessage {
  role: string;
  content: string;
  [field: string]: unknown;
}

/** How a chat template renders a conversation. */
export interface ChatOptions {
  /** Ends the text where the assistant's answer begins. Default false. */
  addGenerationPrompt?: boolean;
  /** Qwen3's thinking switch; left undefined for the template when not given. */
  enableThinking?: boolean;
}

const FILES = ['tokenizer.json', 'tokenizer_config.json'];
const TEMPLATE_FILE = 'chat_template.jinja';

/** Far above any vocabulary's: the tokenizer makes a list that is as long as its largest id. */
const MAX_TOKEN_ID = 2 ** 22;

const tokenizerSchema = z.looseObject({
  model: z.looseObject({}),
  added_tokens: z.array(z.looseObject({ id: z.int().min(0).max(MAX_TOKEN_ID), content: z.string() })),
});
const token = z
  .union([z.string(), z.looseObject({ content: z.string() })], { error: 'expected the text of a token' })
  .nullish();
const settingsSchema = z.looseObject({ eos_token: token, pad_token: token });

/** A model's tokenizer and chat template. Ids and texts equal those of Python's transformers. */
export class Tokenizer {
  /** `eos_token`: what ends a turn of the chat. */
  readonly eosTokenId: number;
  /** Every token that ends a completion: those of `generation_config.json`, else `eos_token`. */
  readonly eosTokenIds: readonly number[];
  /** `pad_token`, or `eos_token` where there is none: padding is always masked. */
  readonly padTokenId: number;
  /** Ids that `skipSpecialTokens` leaves out. */
  readonly specialTokenIds: readonly number[];
  /** Number of tokens; a model's vocabulary may be larger. */
  readonly vocabularySize: number;
  private readonly ids: ReadonlyMap<string, number>;
  private readonly known: ReadonlySet<number>;

  constructor(
    private readonly inner: PreTrainedTokenizer,
    readonly dir: string,
  ) {
    this.ids = inner.get_vocab();
    this.known = new Set(this.ids.values());
    this.vocabularySize = this.ids.size;
    this.specialTokenIds = inner.all_special_ids;
    this.eosTokenId = this.requireToken(inner.eos_token, 'eos_token');
    this.eosTokenIds = [readGenerationConfig(dir).eos_token_id ?? this.eosTokenId].flat();
    this.padTokenId = this.requireToken(inner.pad_token, 'pad_token');
    inner._compiled_template_cache = new TemplateCache();
  }

  /** Ids of a text. Nothing is added; special tokens written out in the text are recognised, as in Python. */
  encode(text: string): number[] {
    return this.inner.encode(text, { add_special_tokens: false });
  }

  /** Text of ids. Ids beyond the vocabulary, which a model can produce, give nothing, as in Python. */
  decode(ids: readonly number[], { skipSpecialTokens = false } = {}): string {
    const known = ids.filter((id) => this.known.has(id));
    if (known.length === 0) return '';
    return this.inner.decode(known, {
      skip_special_tokens: skipSpecialTokens,
      clean_up_tokenization_spaces: this.inner.config.clean_up_tokenization_spaces ?? false,
    });
  }

  /** Id of a token given by its text, or undefined. */
  tokenId(content: string): number | undefined {
    return this.ids.get(content);
  }

  /**
   * A conversation as the text that the model was trained on.
   *
   * @throws CheckpointError  when there is no template, or the template refuses the conversation
   */
  chatText(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    if (!this.inner.chat_template) {
      throw new CheckpointError(
        `${this.dir}: expected a chat template in ${TEMPLATE_FILE} or ${FILES[1]}, found none`,
      );
    }
    const { addGenerationPrompt = false, enableThinking } = options;
    try {
      return this.inner.apply_chat_template([...messages], {
        tokenize: false,
        add_generation_prompt: addGenerationPrompt,
        ...(enableThinking === undefined ? {} : { enable_thinking: enableThinking }),
        ...templateFunctions,
      });
    } catch (error) {
      throw new CheckpointError(`${this.dir}: the chat template fails: ${messageOf(error)}`);
    }
  }

  /** Ids of {@link chatText}. */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatOptions = {}): number[] {
    return this.encode(this.chatText(messages, options));
  }

  private requireToken(content: string | null, field: string): number {
    const id = content === null ? undefined : this.ids.get(content);
    if (id !== undefined) return id;
    throw new CheckpointError(
      `${this.dir}: expected ${field} of ${FILES[1]} to be a token, found ${shownJson(content)}`,
    );
  }
}

/**
 * Loads the tokenizer of a model directory, without the network. The chat template is `chat_template.jinja`,
 * else the one in `tokenizer_config.json`.
 *
 * @throws CheckpointError  naming the files that are missing or damaged
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  const missing = FILES.filter((name) => !existsSync(join(dir, name)));
  if (missing.length > 0) {
    throw new CheckpointError(
      `${dir}: the tokenizer is incomplete, missing: ${missing.join(', ')}. Copy them from the model's repository.`,
    );
  }
  const vocabulary = parseFile(join(dir, FILES[0]), tokenizerSchema);
  checkVocabulary(vocabulary.model.vocab, join(dir, FILES[0]));
  const settings: Record<string, unknown> = parseFile(join(dir, FILES[1]), settingsSchema);
  const templatePath = join(dir, TEMPLATE_FILE);
  if (existsSync(templatePath)) settings.chat_template = readFileSync(templatePath, 'utf8');
  for (const field of ['eos_token', 'pad_token']) settings[field] = contentOf(settings[field]);
  // Imported here because it brings onnxruntime along: 0.1 s and 42 MB that only users of a tokenizer pay.
  const { PreTrainedTokenizer } = await import('@xenova/transformers');
  try {
    const tokenizer = new Tokenizer(new PreTrainedTokenizer(vocabulary, settings), dir);
    // Some of what the files ask for is looked at only when there is a text.
    tokenizer.decode(tokenizer.encode('a text, 1'));
    return tokenizer;
  } catch (error) {
    if (error instanceof CheckpointError) throw error;
    throw new CheckpointError(`${join(dir, FILES[0])}: cannot be understood (${messageOf(error)})`);
  }
}

const isTokenId = (id: unknown): boolean =>
  Number.isInteger(id) && Number(id) >= 0 && Number(id) <= MAX_TOKEN_ID;

/** Ids of the vocabulary become ids of texts as they stand. That there is one the tokenizer sees to. */
function checkVocabulary(vocabulary: unknown, path: string): void {
  if (vocabulary === undefined) return;
  if (typeof vocabulary !== 'object' || vocabulary === null || Array.isArray(vocabulary)) {
    throw new CheckpointError(
      `${path}: model.vocab: expected tokens with their ids, found ${shownJson(vocabulary)}`,
    );
  }
  for (const [token, id] of Object.entries(vocabulary as Record<string, unknown>)) {
    if (isTokenId(id)) continue;
    throw new CheckpointError(
      `${path}: model.vocab: expected an id in 0..${MAX_TOKEN_ID} for ${shownJson(token)}, found ${shownJson(id)}`,
    );
  }
}

/** Older files write a token as an object with its content. */
function contentOf(token: unknown): unknown {
  return typeof token === 'object' && token !== null && 'content' in token ? token.content : token;
}

/** A model's tokenizer. @throws CheckpointError  also when it has more tokens than the model */
export async function loadTokenizerOf(dir: string, { vocabSize }: ModelConfig): Promise<Tokenizer> {
  const tokenizer = await loadTokenizer(dir);
  if (tokenizer.vocabularySize > vocabSize)
    throw new CheckpointError(
      `${dir}: the tokenizer has ${tokenizer.vocabularySize} tokens and the model ${vocabSize}; they do not belong together`,
    );
  return tokenizer;
}
