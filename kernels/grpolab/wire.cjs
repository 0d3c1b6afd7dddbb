// Jupyter's messages as frames of a ZeroMQ socket: identities, a delimiter, a signature, four parts of JSON.
// Source: jupyter-client's "Messaging in Jupyter", protocol 5.3.
const { createHmac, randomUUID, timingSafeEqual } = require('node:crypto');

const DELIMITER = Buffer.from('<IDS|MSG>');
const session = randomUUID();

function signatureOf(key, parts) {
  const hmac = createHmac('sha256', key);
  for (const part of parts) hmac.update(part);
  return Buffer.from(hmac.digest('hex'));
}

/** @throws Error  for frames that are no message, or are not signed with `key` (empty: nothing is signed) */
function readMessage(key, frames) {
  const at = frames.findIndex((frame) => frame.equals(DELIMITER));
  if (at < 0 || frames.length < at + 6) throw new Error('frames that are no Jupyter message');
  const [signature, ...rest] = frames.slice(at + 1);
  const parts = rest.slice(0, 4);
  if (key !== '') {
    const expected = signatureOf(key, parts);
    if (expected.length !== signature.length || !timingSafeEqual(expected, signature))
      throw new Error('a message with a wrong signature');
  }
  const [header, parent, metadata, content] = parts.map((part) => JSON.parse(part.toString()));
  return { identity: frames.slice(0, at), header, parent, metadata, content };
}

/**
 * @param type      such as `execute_reply`
 * @param request   the message that caused this one; absent for none
 * @param identity  of the receiver on a router socket, the topic on a publisher
 */
function writeMessage(key, type, content, { request, identity = [Buffer.from(type)], metadata = {} } = {}) {
  const header = {
    ...{ msg_id: randomUUID(), msg_type: type, session, version: '5.3' },
    ...{ username: request?.header.username ?? 'kernel', date: new Date().toISOString() },
  };
  const parts = [header, request?.header ?? {}, metadata, content].map((part) => JSON.stringify(part));
  const signature = key === '' ? '' : signatureOf(key, parts);
  return [...identity, DELIMITER, signature, ...parts];
}

module.exports = { readMessage, writeMessage };
