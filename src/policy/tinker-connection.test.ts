/** What becomes of a client when its server is gone, comes back as another, is none, or is not to be trusted. */
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { failureOf } from '../../test/judge-server';
import { createModel, eventually, failOnce, forward, KEY } from '../../test/tinker-session';
import { openClient, startServer, within } from '../../test/tinker-session';
import type { Opened } from '../../test/tinker-session';
import type { Restart, TinkerServer } from '../../test/tinker-server';
import { ConfigError, RemoteError } from '../runtime/errors';
import { TinkerClient } from './tinker-client';
import { tinker } from './tinker-protocol';

/** An address where nobody listens. */
async function freeAddress(): Promise<string> {
  const server = await startServer();
  await server.stop();
  return server.baseUrl;
}

describe('opening', () => {
  it('fails within a few seconds where nobody listens, and says what to look at', async () => {
    const baseUrl = await freeAddress();
    const begin = performance.now();
    const error = await failureOf(openClient({ baseUrl }, { outageSeconds: 60 }));
    expect(performance.now() - begin).toBeLessThan(6000);
    expect(error).toBeInstanceOf(RemoteError);
    expect(error.message).toContain(`${baseUrl}: create_session: connect ECONNREFUSED`);
    expect(error.message).toMatch(/Is the server running, and base_url its address\?$/);
  });

  it.each(['localhost:8000', 'ftp://localhost', 'nowhere', ''])(
    'refuses the address "%s"',
    async (baseUrl) => {
      const error = await failureOf(TinkerClient.open({ baseUrl }));
      expect(error).toBeInstanceOf(ConfigError);
      expect(error.message).toContain(`base_url is "${baseUrl}"`);
    },
  );

  it('takes an address with a slash at its end, or with the path of the protocol', async () => {
    const server = await startServer();
    for (const end of ['/', '/api/v1', '/api/v1/']) {
      const { client } = await openClient({ baseUrl: `${server.baseUrl}${end}` });
      expect(await client.models()).toEqual([server.modelName]);
      expect(client.address).toBe(server.baseUrl);
    }
  });

  it.each([
    ['a page of HTML', { text: '<!DOCTYPE html><title>Router</title>' }, /not JSON, but <!DOCTYPE html>/],
    ['an empty answer', { text: '' }, /not JSON, but nothing/],
    ['JSON of another form', { text: '{"id": "chat-1"}' }, /not the answer of a Tinker server at session_id/],
    ['a list', { text: '[]' }, /not the answer of a Tinker server/],
    ['404', { status: 404, text: 'no such page' }, /create_session: 404 no such page/],
    ['401', { status: 401, text: '{"detail": "no key"}' }, /create_session: 401 no key/],
  ])('fails at once when the server answers with %s', async (_, fault, message) => {
    const server = await startServer({ fault: () => fault });
    const error = await within(10, failureOf(openClient(server)));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error.message).toMatch(message);
    expect(server.requests).toHaveLength(1);
  });
});

describe('an outage', () => {
  it.each(['before it is asked for', 'while its result is waited for'])(
    'is overcome when it is short, for an operation, %s',
    async (when) => {
      const server = await startServer({ operationSeconds: when.startsWith('while') ? 0.3 : 0 });
      const { client, notices } = await openClient(server, { outageSeconds: 5 });
      const model = await createModel(client);
      const done = server.applied('forward').length;
      if (when.startsWith('before')) await server.stop();
      const result = client.run(forward(model));
      await delay(200);
      await server.stop();
      await delay(400);
      await server.start();
      expect((await result).loss_fn_outputs).toHaveLength(1);
      expect(server.applied('forward').length - done).toBe(1);
      // The cut connection, where there was one, and the refused ones.
      expect(notices).toHaveLength(when.startsWith('before') ? 1 : 2);
      expect(notices[notices.length - 1]).toContain('ECONNREFUSED');
    },
  );

  it('is overcome when it is short, for a step that has not been sent', async () => {
    const server = await startServer();
    const { client, notices } = await openClient(server, { outageSeconds: 5 });
    const model = await createModel(client);
    await server.stop();
    const result = client.run(tinker.optimStep(model, { learningRate: 0 }));
    await delay(300);
    await server.start();
    await result;
    expect(server.applied('optim_step')).toHaveLength(1);
    expect(notices).toHaveLength(1);
  });

  it('is overcome for a step that has not been sent, when the server resets its first connection', async () => {
    const server = await startServer();
    const { client } = await openClient(server, { outageSeconds: 5 });
    const model = await createModel(client);
    await server.stop();
    const result = client.run(tinker.optimStep(model, { learningRate: 0 }));
    await delay(300);
    server.fault = failOnce('session_heartbeat', { cut: 'at once' });
    await server.start();
    await result;
    expect(server.applied('optim_step')).toHaveLength(1);
  });

  it('is reported when it lasts too long', async () => {
    const server = await startServer();
    const { client } = await openClient(server, { outageSeconds: 0.5 });
    const model = await createModel(client);
    await server.stop();
    const begin = performance.now();
    const error = await failureOf(client.run(forward(model)));
    expect(performance.now() - begin).toBeGreaterThan(500);
    expect(performance.now() - begin).toBeLessThan(3000);
    expect(error.message).toMatch(/forward: connect ECONNREFUSED.*no connection for 0\.5 s/);
  });
});

/** Waits until a result is asked for, so that whatever happens next happens while it is waited for. */
async function untilWaiting(server: TinkerServer, of: string): Promise<void> {
  await eventually(() => server.requests.some((request) => request.of === of), true);
}

/** Another client takes the first two tickets of a server that has forgotten all. */
async function openAnother(server: TinkerServer): Promise<Opened> {
  const other = await openClient(server, { apiKey: 'of-another' });
  await other.client.run(forward(await createModel(other.client)));
  return other;
}

describe('a server that was restarted', () => {
  /** Tickets 1 and 2 are this client's; what it asks for after the restart waits until another client has them. */
  async function restartDuring(restart: Restart): Promise<unknown> {
    const server = await startServer({ operationSeconds: 0.3 });
    const { client } = await openClient(server);
    const model = await createModel(client);
    const outcome = failureOf(client.run(forward(model)));
    await untilWaiting(server, 'forward');
    server.fault = ({ path, headers }) =>
      path === 'retrieve_future' && headers['x-api-key'] === KEY ? { delaySeconds: 1.5 } : undefined;
    await server.restart(restart);
    if (!restart.keepDatabase) await openAnother(server);
    return outcome;
  }

  it('never gives the result of another client, whose ticket has the same number', async () => {
    const error = await restartDuring({ keepDatabase: false });
    expect(error).toBeInstanceOf(RemoteError);
    expect((error as Error).message).toMatch(/forward: the server was restarted.*models.*gone.*--resume/);
  });

  it('never gives the result of another client when a proxy keeps the connections', async () => {
    const error = await restartDuring({ keepDatabase: false, isBehindProxy: true });
    expect(error).toBeInstanceOf(RemoteError);
    expect((error as Error).message).toMatch(/forward: the server was restarted.*--resume/);
  });

  it('says that the model is gone when it still knows the session', async () => {
    const error = await restartDuring({ keepDatabase: true });
    expect(error).toBeInstanceOf(RemoteError);
    expect((error as Error).message).toMatch(/forward: 400 Model model_\w+ not loaded.*restarted.*--resume/);
  });

  // Nothing was lost on the way, so nothing tells the client that the ticket is from another life.
  it('never gives the result of another client that is asked for after the restart', async () => {
    const server = await startServer();
    const { client } = await openClient(server);
    const operation = forward(await createModel(client));
    const { ticket } = await client.start(operation);
    await server.restart({ keepDatabase: false });
    await openAnother(server);
    const error = await failureOf(client.finish(operation, ticket));
    expect(error).toBeInstanceOf(RemoteError);
  });

  it('is noticed by the signs of life, and every later operation fails at once', async () => {
    const server = await startServer();
    const { client } = await openClient(server, { heartbeatSeconds: 0.05 });
    const model = await createModel(client);
    await server.restart({ keepDatabase: false });
    await eventually(() => server.asked('session_heartbeat').length > 2, true);
    await delay(50);
    const error = await failureOf(client.run(tinker.optimStep(model, { learningRate: 0 })));
    expect(error).toMatchObject({ name: 'RemoteError', status: 404 });
    expect(error.message).toMatch(/optim_step: the server was restarted.*--resume/);
    expect(server.asked('optim_step')).toEqual([]);
  });
});

describe('signs of life', () => {
  it('come at the interval, with the session, until the client is closed', async () => {
    const server = await startServer();
    const { client } = await openClient(server, { heartbeatSeconds: 0.1 });
    await delay(1050);
    client.close();
    const beats = server.asked('session_heartbeat');
    expect(beats.length).toBeGreaterThanOrEqual(4);
    expect(beats.length).toBeLessThanOrEqual(11);
    expect(new Set(beats.map(({ body }) => body.session_id))).toEqual(new Set([client.session]));
    await delay(300);
    expect(server.asked('session_heartbeat').length - beats.length).toBeLessThanOrEqual(1);
  });

  it('keep the models of a session', async () => {
    const server = await startServer({ sessionTimeoutSeconds: 1.5 });
    const { client } = await openClient(server, { heartbeatSeconds: 0.1 });
    const { client: silent } = await openClient(server);
    const [kept, lost] = [await createModel(client), await createModel(silent)];
    await delay(2000);
    await client.run(forward(kept));
    const error = await failureOf(silent.run(forward(lost)));
    expect(error.message).toMatch(/forward: 400 Model model_\w+ not loaded/);
  });

  it('that fail disturb nobody', async () => {
    const server = await startServer();
    server.fault = ({ path, n }) =>
      path === 'session_heartbeat' ? (n % 2 === 0 ? { status: 500 } : { cut: 'at once' }) : undefined;
    const { client, notices } = await openClient(server, { heartbeatSeconds: 0.05 });
    await delay(300);
    await client.run(forward(await createModel(client)));
    expect(notices).toEqual([]);
  });
});

describe('the key', () => {
  it('goes with every request, in a header of its own', async () => {
    const server = await startServer();
    const { client } = await openClient(server, { heartbeatSeconds: 0.05 });
    const model = await createModel(client);
    await client.run(tinker.saveForDownload(model, () => 'copy'));
    await client.download(`training_runs/${model}/checkpoints/copy/archive`, 'copy');
    await eventually(() => server.asked('session_heartbeat').length > 0, true);
    expect(new Set(server.requests.map(({ headers }) => headers['x-api-key']))).toEqual(new Set([KEY]));
    expect(server.requests.filter(({ path }) => /archive$|download$/.test(path))).toHaveLength(2);
  });

  it('is not sent when there is none', async () => {
    const server = await startServer();
    await openClient(server, { apiKey: undefined });
    expect(server.requests[0].headers).not.toHaveProperty('x-api-key');
  });

  it.each([
    ['a refusal', { status: 400, text: JSON.stringify({ detail: `key ${KEY} is not known` }) }],
    ['an invalid body', { status: 422, text: JSON.stringify({ detail: [{ loc: ['header'], msg: KEY }] }) }],
    ['a failure', { status: 500, text: `KeyError: ${KEY}` }],
    ['a text', { text: `Hello ${KEY}` }],
  ])('is not shown by %s that repeats it', async (_, fault) => {
    const server = await startServer();
    const { client, notices } = await openClient(server);
    const model = await createModel(client);
    server.fault = ({ path }) => (path === 'forward' ? fault : undefined);
    const error = await failureOf(client.run(forward(model)));
    for (const line of [error.message, ...notices]) expect(line).not.toContain(KEY);
    expect(error.message).toContain('[key]');
  });

  // Long texts are cut, and half of a key would not be found.
  it('is not shown in part by a long text that repeats it', async () => {
    const server = await startServer();
    const { client } = await openClient(server);
    const model = await createModel(client);
    server.fault = failOnce('forward', { status: 400, text: `${'x'.repeat(285)}${KEY}` });
    const error = await failureOf(client.run(forward(model)));
    expect(error.message).not.toContain(KEY.slice(0, 12));
  });

  // It is taken out of results as well, where it may be a part of anything.
  it.each(['tinker', 'e', '7'])('spoils no result when it is as short as "%s"', async (apiKey) => {
    const server = await startServer();
    const { client } = await openClient(server, { apiKey });
    const model = await createModel(client);
    const { path } = await client.run(tinker.saveWeights(model, () => 'state-7'));
    expect(path).toBe(`tinker://${model}/weights/state-7`);
  });
});

describe('a redirect of a download', () => {
  /** A saved copy, whose archive is somewhere else. */
  async function openDownload(location?: (server: TinkerServer) => string) {
    const server = await startServer();
    const { client } = await openClient(server);
    const model = await createModel(client);
    await client.run(tinker.saveForDownload(model, () => 'copy'));
    if (location !== undefined)
      server.fault = ({ path }) =>
        path.endsWith('archive')
          ? { status: 302, text: '', headers: { location: location(server) } }
          : undefined;
    const place = `training_runs/${model}/checkpoints/copy`;
    return { server, place, archive: client.download(`${place}/archive`, 'copy') };
  }

  it('is followed', async () => {
    const { server, place, archive } = await openDownload();
    expect((await archive).subarray(0, 2)).toEqual(Buffer.from([0x1f, 0x8b]));
    expect(server.asked(`${place}/download`)).toHaveLength(1);
  });

  it('is followed where it is relative', async () => {
    const { archive } = await openDownload(() => 'download');
    expect((await archive).length).toBeGreaterThan(1000);
  });

  it('is followed to another host, which does not see the key', async () => {
    const other = await startServer();
    const elsewhere = other.baseUrl.replace('127.0.0.1', 'localhost');
    other.fault = () => ({ text: 'an archive' });
    const { archive } = await openDownload(() => `${elsewhere}/api/v1/somewhere`);
    expect((await archive).toString()).toBe('an archive');
    expect(other.requests).toHaveLength(1);
    expect(other.requests[0].headers).not.toHaveProperty('x-api-key');
  });

  it('is not followed to what is no page', async () => {
    const { archive } = await openDownload(() => 'file:///etc/hostname');
    expect(await failureOf(archive)).toMatchObject({ name: 'RemoteError', status: 302 });
  });

  it('is given up where it leads to itself', async () => {
    const { archive } = await openDownload(() => 'archive');
    expect(await within(10, failureOf(archive))).toMatchObject({ status: 302 });
  });
});
