/** What the environment says about a hub, by the names that the Hugging Face libraries use. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { ConfigError } from '../runtime/errors';

export interface HubToken {
  /** Never shown. */
  value: string;
  /** Where it is from, for messages. */
  source: string;
}

/** Where `hf auth login` keeps its token. */
function tokenFile(): string {
  const { HF_TOKEN_PATH, HF_HOME, XDG_CACHE_HOME } = process.env;
  if (HF_TOKEN_PATH) return HF_TOKEN_PATH;
  return join(HF_HOME || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'), 'token');
}

function readFileIfAny(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return ''; // most machines have none
  }
}

/**
 * The token for gated and private models: `HF_TOKEN`, else the file of `hf auth login` (`HF_TOKEN_PATH`).
 * @throws ConfigError  when it is none; without showing it, as a header's own error would
 */
export function readToken(): HubToken | undefined {
  const variable = (process.env.HF_TOKEN ?? '').trim();
  const file = tokenFile();
  const value = variable || readFileIfAny(file);
  if (value === '') return undefined;
  const source = variable === '' ? `the token in ${file}` : 'the token in HF_TOKEN';
  if (/^[\x21-\x7e]+$/.test(value)) return { value, source };
  throw new ConfigError(`${source} holds white space or characters that no token has. Set it again.`);
}

/** The variable that forbids the network, if one is set. */
export function offlineVariable(): string | undefined {
  return ['HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'].find((name) =>
    /^(1|on|yes|true)$/i.test(process.env[name] ?? ''),
  );
}
