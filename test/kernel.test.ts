import { spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { temporaryDirectory } from './cli';
import { KernelClient } from './kernel-client';

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('the kernel', () => {
  let kernel: KernelClient;
  beforeAll(async () => {
    kernel = await KernelClient.start();
  });
  afterAll(() => kernel.close());

  it('is there in less than 4 seconds', async () => {
    const begin = performance.now();
    const second = await KernelClient.start();
    // Twice the promise: the tests share two cores.
    expect(performance.now() - begin).toBeLessThan(8000);
    expect(await second.shutdown()).toBe(0);
  });

  it('says what it is', async () => {
    const info = await kernel.request('kernel_info_request', {});
    expect(info).toMatchObject({ status: 'ok', protocol_version: '5.3', implementation: 'grpolab' });
    expect(info.language_info).toMatchObject({ name: 'typescript', file_extension: '.ts' });
    expect(await kernel.request('kernel_info_request', {}, 'control')).toEqual(info);
    expect(await kernel.request('comm_info_request', {})).toEqual({ status: 'ok', comms: {} });
  });

  it("runs in the notebook's folder, with what TensorFlow needs", async () => {
    expect((await kernel.run('process.cwd()')).value).toBe(path.resolve('notebooks'));
    const code =
      "import * as util from 'node:util'; [(util as any).isNullOrUndefined(null), process.env.TF_CPP_MIN_LOG_LEVEL]";
    expect((await kernel.run(code)).value).toBe("[ true, '2' ]");
  });

  it('keeps variables, shows the value of the last expression, and both streams', async () => {
    expect((await kernel.run('let a = 41; a + 1')).value).toBe('42');
    const outcome = await kernel.run('console.log("x", a); console.error("y"); "text"');
    expect([outcome.text('stdout'), outcome.text('stderr'), outcome.value]).toEqual([
      'x 41\n',
      'y\n',
      'text',
    ]);
    expect(outcome.messages[0]).toMatchObject({ type: 'execute_input' });
    expect(outcome.reply.execution_count).toBeGreaterThan(1);
  });

  it('shows the whole of what a loop prints, in order, in few messages', async () => {
    const outcome = await kernel.run('for (let i = 0; i < 2000; i++) console.log(i)');
    expect(outcome.text('stdout')).toBe(Array.from({ length: 2000 }, (_, i) => `${i}\n`).join(''));
    expect(outcome.messages.length).toBeLessThan(100);
  });

  it('imports the library by name, with its types', async () => {
    const outcome = await kernel.run("import { metrics } from 'grpolab'; metrics.mean([1, 2])");
    expect(outcome.value).toBe('1.5');
    const wrong = await kernel.run('const n: string = metrics.mean([1])');
    expect(wrong.error).toBe("TypeScriptError: 1:7 Type 'number' is not assignable to type 'string'.");
    expect((wrong.reply.traceback as string[]).join('\n')).toContain('const n: string = metrics.mean([1])');
  });

  it.each([
    ['{ seen, more }', '{ seen: [ 1 ], more: 3 }'],
    ['({ more } = { more: 7 }); more', '7'],
    ['(function f() { return { seen }; })()', '{ seen: [ 1 ] }'],
    ['const { own = 2 } = { own: undefined as any }; own', '2'],
    ['for await (const x of [4, 5]) console.log(x)', '4\n5\n'],
    ['const five = await (later()); five', '5'],
    ['(await (await (later2())).next()).value', '6'],
    ['await [later()][0]', '5'],
    ['const g = async () => await (later()); await g()', '5'],
  ])('compiles %s', async (code, expected) => {
    await kernel.run('const seen = [1]; let more = 3; const later = async () => 5;');
    await kernel.run('const later2 = async () => ({ next: async () => ({ value: 6 }) });');
    const { value, error, text } = await kernel.run(code.startsWith('{') ? `const o = ${code}; o` : code);
    expect(error).toBeUndefined();
    expect(value ?? text('stdout')).toBe(expected);
  });

  it('names the column that was typed, whatever was rewritten', async () => {
    await kernel.run('const seen = [1]; let more = 3');
    const { reply } = await kernel.run(
      'const w = { seen, more, a: nope };\nawait (0); const z: string = { more }',
    );
    const text = (reply.traceback as string[]).join('\n');
    expect(text).toMatch(/line 1:28.* Cannot find name 'nope'/);
    expect(text).toMatch(/line 2:18.* is not assignable to type 'string'/);
  });

  it("shows an error of the library by its message, and the cell's line", async () => {
    await kernel.run("import { train } from 'grpolab'");
    const { error, reply, status } = await kernel.run("train.parseExperiment({ method: 'grp' })");
    expect(status).toBe('error');
    expect(error).toMatch(/^ConfigError: experiment: .*method is "grp"/);
    const [first, ...rest] = reply.traceback as string[];
    expect(first).toContain('ConfigError');
    expect(rest.join('\n')).toMatch(/cell \d+: train\.parseExperiment/);
    expect(rest.join('\n')).not.toMatch(/dist\/|node_modules|node:/);
  });

  it('shows other errors with their frames, and anything else that is thrown', async () => {
    const outcome = await kernel.run('function g() { throw new RangeError("too far") }; g()');
    expect(outcome.error).toBe('RangeError: too far');
    expect((outcome.reply.traceback as string[]).join('\n')).toMatch(/at g \(cell \d+: function g\(\)/);
    expect((await kernel.run('throw "words"')).error).toBe('Thrown: words');
    expect((await kernel.run('throw { code: 7 }')).error).toBe('Thrown: { code: 7 }');
    const cause = await kernel.run('throw new Error("outer", { cause: new TypeError("inner") })');
    expect((cause.reply.traceback as string[]).join('\n')).toContain('caused by TypeError: inner');
  });

  it('shows an error that nobody awaited, and goes on', async () => {
    const outcome = await kernel.run(
      "void Promise.reject(new Error('lost')); await new Promise((r) => setTimeout(r, 50)); 1",
    );
    expect([outcome.error, outcome.value, outcome.status]).toEqual(['Error: lost', '1', 'ok']);
  });

  it('does not run the cells that wait behind a failed one, and runs those that come after its reply', async () => {
    const [failed, waiting] = await Promise.all([kernel.run('throw new Error("stop")'), kernel.run('1')]);
    expect([failed.status, waiting.status]).toEqual(['error', 'aborted']);
    expect((await kernel.run('2')).value).toBe('2');
  });

  it.each([
    ['a loop', 'let b = 0; while (true) b++;'],
    ['a loop after an await', 'await new Promise((r) => setTimeout(r, 100)); while (true) a++;'],
    ['a wait', 'await new Promise(() => {})'],
    ['a loop that awaits', 'while (true) await new Promise((r) => setTimeout(r, 5));'],
    ['a loop that catches everything', 'try { while (true) a++; } catch {} finally { a = -1 }'],
  ])('interrupts %s and keeps the variables', async (_name, code) => {
    await kernel.run('let a = 41; const kept = [7]');
    const begin = performance.now();
    const outcome = await kernel.interrupted(code, 400);
    expect(outcome.error).toBe(
      'Interrupted: the cell was interrupted; the variables of earlier cells are kept',
    );
    expect(performance.now() - begin).toBeLessThan(4000);
    expect((await kernel.run('[a >= 41, kept[0]]')).value).toBe('[ true, 7 ]');
  });

  it('completes behind an emoji', async () => {
    const code = "const t = '😀😀'; Math.ma";
    const reply = await kernel.request('complete_request', { code, cursor_pos: [...code].length });
    expect(reply.matches).toContain('max');
    expect([...code].slice(reply.cursor_start as number, reply.cursor_end as number).join('')).toBe('ma');
  });

  it('answers a request that it cannot understand, and goes on', async () => {
    expect(await kernel.request('complete_request', { code: '/** @browser */ x' })).toMatchObject({
      status: 'error',
    });
    expect(await kernel.request('is_complete_request', {})).toMatchObject({ status: 'error' });
    expect((await kernel.run('7')).value).toBe('7');
  });

  it.each([
    ['a getter that throws', "throw Object.defineProperty(new Error(), 'message', { get() { throw 1; } })"],
    ['a name that is no text', "throw Object.assign(new Error('m'), { name: undefined })"],
    ['nothing', 'throw undefined'],
  ])('shows a thrown error with %s', async (_name, code) => {
    const { status, reply } = await kernel.run(code);
    expect(status).toBe('error');
    expect([typeof reply.ename, typeof reply.evalue]).toEqual(['string', 'string']);
    expect((await kernel.run('8')).value).toBe('8');
  });

  it('sends thousands of messages', async () => {
    const code =
      "const shown = new notebook.Display(); for (let i = 0; i < 2000; i++) shown.show({ 'text/plain': String(i) })";
    await kernel.run("import { notebook } from 'grpolab'");
    const { messages } = await kernel.run(code);
    expect(messages.filter(({ type }) => type.endsWith('display_data')).length).toBe(2000);
    for (let i = 0; i < 600; i++) await kernel.request('is_complete_request', { code: '1' });
    expect((await kernel.run('9')).value).toBe('9');
  });

  it('keeps the cells that wait when a loop behind an await is interrupted', async () => {
    await kernel.run('let round = 0');
    const spinning = kernel.run('await null; while (true) round++;');
    const waiting = kernel.run('round');
    await wait(300);
    await kernel.interrupt();
    expect((await spinning).error).toMatch(/^Interrupted/);
    expect((await waiting).status).toBe('aborted');
    expect((await kernel.run('round > 0')).value).toBe('true');
  });

  it('ends a loop in a timer that runs behind an ended cell', async () => {
    await kernel.run('let spins = 0; setTimeout(() => { while (true) spins++; }, 50); 0');
    await wait(300);
    await kernel.interrupt();
    expect((await kernel.run('spins > 0')).value).toBe('true');
  });

  it('hears of an interrupt that comes as a signal', async () => {
    const outcome = kernel.run('await new Promise(() => {})');
    await wait(300);
    kernel.process.kill('SIGINT');
    expect((await outcome).error).toMatch(/^Interrupted/);
  });

  it('leaves work of the library the time to stop, and ends it at once when asked again', async () => {
    await kernel.run("import { notebook } from 'grpolab'; let saved = ''");
    const polite = await kernel.interrupted(
      `await notebook.interruptible(async (signal) => {
        while (!signal.aborted) await new Promise((r) => setTimeout(r, 10));
        await new Promise((r) => setTimeout(r, 300));
        saved = 'all';
      }); saved`,
      300,
    );
    expect(polite.value).toBe('all');
    expect(polite.text('stderr')).toContain('interrupt again');
    const deaf = kernel.run('await notebook.interruptible(() => new Promise(() => {}))');
    await wait(300);
    await kernel.interrupt();
    await wait(300);
    await kernel.interrupt();
    expect((await deaf).error).toMatch(/^Interrupted/);
    expect((await kernel.run('saved')).value).toBe('all');
  });

  it('answers other requests while a cell runs, and stays busy', async () => {
    const running = kernel.run('await new Promise((r) => setTimeout(r, 500)); "done"');
    await wait(100);
    const { matches } = await kernel.request('complete_request', { code: 'Math.ma', cursor_pos: 7 });
    expect(matches).toContain('max');
    expect((await running).value).toBe('done');
    const found = await kernel.request('inspect_request', {
      code: 'Math.max',
      cursor_pos: 6,
      detail_level: 0,
    });
    expect((found.data as Record<string, string>)['text/plain']).toContain('max');
    const complete = (code: string) => kernel.request('is_complete_request', { code });
    expect(await complete('1 + 1')).toEqual({ status: 'complete' });
    expect(await complete('if (true) {')).toMatchObject({ status: 'incomplete' });
  });

  it('shows displays that change in place, its own and those of tslab', async () => {
    const own = await kernel.run(
      "const d = new notebook.Display(); d.show({ 'text/html': '1' }); d.show({ 'text/html': '2' })",
    );
    const displays = own.messages.filter(({ type }) => type.endsWith('display_data'));
    expect(displays.map(({ type }) => type)).toEqual(['display_data', 'update_display_data']);
    const ids = displays.map(({ content }) => (content.transient as { display_id: string }).display_id);
    expect(ids[0]).toBe(ids[1]);
    const other = await kernel.run("import * as tslab from 'tslab'; tslab.display.html('<b>3</b>')");
    expect(other.messages.find(({ type }) => type === 'display_data')?.content.data).toEqual({
      'text/html': '<b>3</b>',
    });
  });

  it('ignores a message with a wrong signature', async () => {
    const stranger = kernel.key;
    Object.assign(kernel, { key: 'another' });
    void kernel.request('kernel_info_request', {});
    Object.assign(kernel, { key: stranger });
    expect((await kernel.run('5')).value).toBe('5');
  });
});

/** A project of its own around the kernel, with this one's packages and a library of two lines. */
function project({ built = true } = {}): string {
  const root = temporaryDirectory();
  cpSync('kernels', path.join(root, 'kernels'), { recursive: true });
  mkdirSync(path.join(root, 'node_modules'));
  for (const name of ['tslab', '@types'])
    symlinkSync(path.resolve('node_modules', name), path.join(root, 'node_modules', name));
  symlinkSync(root, path.join(root, 'node_modules/grpolab'));
  writeFileSync(
    path.join(root, 'package.json'),
    '{"name":"grpolab","main":"dist/index.js","types":"dist/index.d.ts"}',
  );
  mkdirSync(path.join(root, 'notebooks'));
  if (built) build(root, 1);
  return root;
}

function build(root: string, version: number): void {
  mkdirSync(path.join(root, 'dist'), { recursive: true });
  writeFileSync(path.join(root, 'dist/part.js'), `exports.version = () => ${version};`);
  writeFileSync(path.join(root, 'dist/part.d.ts'), 'export declare function version(): number;');
  writeFileSync(path.join(root, 'dist/index.js'), "exports.part = require('./part.js');");
  writeFileSync(path.join(root, 'dist/index.d.ts'), "export * as part from './part';");
}

const inProject = (root: string) => KernelClient.start({ root, cwd: path.join(root, 'notebooks') });

describe('the kernel and the build', () => {
  it('takes a new build into its variables, wherever the project lies', async () => {
    const root = project();
    const kernel = await inProject(root);
    try {
      expect((await kernel.run("import { part } from 'grpolab'; let mine = 5; part.version()")).value).toBe(
        '1',
      );
      await wait(20);
      build(root, 2);
      const outcome = await kernel.run('[part.version(), mine]');
      expect([outcome.value, outcome.text('stderr')]).toEqual([
        '[ 2, 5 ]',
        'The library was built again: its new code is in force from here on.\n',
      ]);
      expect((await kernel.run("import * as all from 'grpolab'; all.part.version()")).value).toBe('2');
    } finally {
      kernel.close();
    }
  });

  it('says in every cell what is missing while there is no build, and goes on when there is one', async () => {
    const root = project({ built: false });
    const kernel = await inProject(root);
    try {
      const outcome = await kernel.run('1');
      expect(outcome.error).toMatch(/^SetupError: the library is not built.*npm run setup/);
      build(root, 3);
      expect((await kernel.run("import { part } from 'grpolab'; part.version()")).value).toBe('3');
      rmSync(path.join(root, 'dist'), { recursive: true });
      expect((await kernel.run('1')).error).toMatch(/^SetupError/);
    } finally {
      kernel.close();
    }
  });

  it('runs in the project when the notebook lies outside of it', async () => {
    const kernel = await KernelClient.start({ cwd: temporaryDirectory() });
    try {
      expect(
        (await kernel.run("import { metrics } from 'grpolab'; [process.cwd(), metrics.mean([3])]")).value,
      ).toContain(`${process.cwd()}', 3`);
    } finally {
      kernel.close();
    }
  });

  it('says on the terminal what to do where nothing is set up', () => {
    const root = temporaryDirectory();
    cpSync('kernels', path.join(root, 'kernels'), { recursive: true });
    const file = path.join(root, 'kernels/grpolab/kernel.cjs');
    const { status, stderr } = spawnSync(process.execPath, [file, 'connection.json'], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([
      1,
      `grpolab kernel: ${root} is not set up. Run \`npm run setup\` there, then restart the kernel.\n`,
    ]);
  });

  it('says in every cell that Node is too old', async () => {
    const root = project();
    // The version is all that the launcher asks of Node.
    const old = path.join(root, 'old.cjs');
    writeFileSync(old, "Object.defineProperty(process.versions, 'node', { value: '18.20.4' });");
    const file = path.join(root, 'kernels/grpolab/kernel.json');
    const spec = { argv: ['node', '--require', old, '{resource_dir}/kernel.cjs', '{connection_file}'] };
    writeFileSync(file, JSON.stringify(spec));
    const kernel = await inProject(root);
    try {
      expect((await kernel.run('1')).error).toBe(
        'SetupError: Node 18.20.4 is too old for grpolab: expected 20.19, 22 or 24. ' +
          'Put a newer one first in PATH, then start Jupyter again.',
      );
    } finally {
      kernel.close();
    }
  });
});

describe('a cell that is interrupted while it is compiled or loads the library', () => {
  it.each([100, 900, 1500])('after %i ms leaves a kernel that works', async (after) => {
    const kernel = await KernelClient.start();
    try {
      await kernel.interrupted(
        "import { train, metrics } from 'grpolab'; train.readMetrics('x').length",
        after,
      );
      const outcome = await kernel.run(
        "import { train, metrics } from 'grpolab'; [train.readMetrics('x').length, metrics.mean([2])]",
      );
      expect(outcome.value).toBe('[ 0, 2 ]');
    } finally {
      kernel.close();
    }
  });
});

describe('the kernel and new directories', () => {
  it('compiles on when a module directory appears', async () => {
    const root = project();
    const kernel = await inProject(root);
    try {
      await kernel.run("import { part } from 'grpolab'; part.version()");
      mkdirSync(path.join(root, 'notebooks/node_modules'));
      mkdirSync(path.join(root, 'node_modules/another'));
      await wait(400);
      expect((await kernel.run('part.version()')).value).toBe('1');
      expect((await kernel.run('2 + 2')).value).toBe('4');
    } finally {
      kernel.close();
    }
  });
});

describe('the end of a kernel', () => {
  it('comes on request also while a cell spins', async () => {
    const kernel = await KernelClient.start();
    void kernel.run('while (true);');
    await wait(300);
    expect(await kernel.shutdown()).toBe('SIGKILL');
  });

  it('waits until work of the library is saved', async () => {
    const kernel = await KernelClient.start();
    const file = path.join(temporaryDirectory(), 'saved');
    await kernel.run("import { notebook } from 'grpolab'; import { writeFileSync } from 'node:fs'");
    void kernel.run(`await notebook.interruptible(async (signal) => {
      while (!signal.aborted) await new Promise((r) => setTimeout(r, 10));
      await new Promise((r) => setTimeout(r, 500));
      writeFileSync(${JSON.stringify(file)}, 'yes');
    })`);
    await wait(500);
    expect(await kernel.shutdown()).toBe(0);
    expect(spawnSync('cat', [file], { encoding: 'utf8' }).stdout).toBe('yes');
  });

  it('comes when the process that started it is gone', async () => {
    const kernel = spawn(process.execPath, ['-e', parentOf()], { stdio: ['ignore', 'pipe', 'inherit'] });
    const pid = await new Promise<number>((resolve) =>
      kernel.stdout.once('data', (text: Buffer) => resolve(Number(text.toString()))),
    );
    await wait(3000);
    kernel.kill('SIGKILL');
    const isAlive = (): boolean => {
      try {
        return process.kill(pid, 0);
      } catch {
        return false;
      }
    };
    expect(isAlive()).toBe(true);
    for (let i = 0; i < 60 && isAlive(); i++) await wait(200);
    expect(isAlive()).toBe(false);
  });
});

/** A program that starts a kernel and prints its process's number. */
function parentOf(): string {
  const file = path.join(temporaryDirectory(), 'connection.json');
  const ports = ['shell', 'control', 'iopub', 'stdin', 'hb'].map((name, i) => [
    `${name}_port`,
    20_000 + (process.pid % 5000) * 5 + i,
  ]);
  const scheme = { transport: 'tcp', ip: '127.0.0.1', signature_scheme: 'hmac-sha256', key: 'k' };
  writeFileSync(file, JSON.stringify({ ...Object.fromEntries(ports), ...scheme }));
  const args = [path.resolve('kernels/grpolab/kernel.cjs'), file];
  return `const child = require('node:child_process').spawn(process.execPath, ${JSON.stringify(args)}, { stdio: 'ignore' });
    console.log(child.pid); setInterval(() => {}, 1000);`;
}
