// A Jupyter kernel for TypeScript: tslab compiles and runs the cells, this file speaks with Jupyter. Beside tslab's own
// server it sends errors as `error` messages, interrupts loops that never wait, leaves the library the time to save what
// it does, and loads the library anew when it was built again.
const { EventEmitter } = require('node:events');
const { readFileSync, realpathSync } = require('node:fs');
const path = require('node:path');
const util = require('node:util');
const vm = require('node:vm');
const { Worker } = require('node:worker_threads');
const { Build } = require('./build.cjs');
const { loadCompiler, rewriteCell } = require('./compiler.cjs');
const {
  diagnosticsContent,
  errorContent,
  interruptedContent,
  rememberCell,
  sentenceContent,
} = require('./errors.cjs');
const { writeMessage } = require('./wire.cjs');

/** Text of the same stream that follows within this time goes out as one message. */
const STREAM_MS = 40;
/** Time for the rest of a "Run All" to arrive, which is not run after a failed cell. */
const ABORT_MS = 30;
/** What a shutdown leaves the library to save, in less than the time after which the process is killed. */
const LAST_WORDS_MS = 4_000;
const PARENT_CHECK_MS = 3_000;
const STATE_AGAIN_MS = 200;

/** What the library finds of the kernel that it runs in, under this symbol. */
const KERNEL = Symbol.for('grpolab.kernel');

/** What runs in this thread: the kernel itself, the script of a cell, or nothing but what cells have left to run. */
const DOING = { kernel: 0, script: 1, cells: 2 };

class Kernel {
  constructor({ root, parent, connectionFile, problem }) {
    this.root = root;
    this.parent = parent;
    this.connection = JSON.parse(readFileSync(connectionFile, 'utf8'));
    this.problem = problem;
    this.build = new Build(root);
    this.count = 0;
    this.queue = [];
    this.running = null;
    this.latest = undefined;
    this.lastWords = undefined;
    this.streams = { name: '', text: '', sent: 0, timer: null };
    this.shared = new Int32Array(new SharedArrayBuffer(12));
    this.interrupts = new EventEmitter();
    this.interrupts.setMaxListeners(0);
    const countListeners = (change) => (event) => {
      if (event === 'interrupt') Atomics.add(this.shared, 0, change);
    };
    this.interrupts.on('newListener', countListeners(1)).on('removeListener', countListeners(-1));
  }

  async start() {
    // Its own packages are found from where it really is.
    const tslab = realpathSync(path.join(this.root, 'node_modules/tslab/dist'));
    this.compiler = loadCompiler(tslab);
    const { createConverter, createExecutor } = this.compiler;
    this.inspection = require(path.join(tslab, 'inspect.js'));
    this.display = require(path.join(tslab, 'jupyter.js'));
    const { versions } = require(path.join(tslab, 'public.js'));
    const converters = { node: createConverter({ isJS: false, isBrowser: false }), close() {} };
    watchCells(this.shared, () => this.count);
    this.executor = createExecutor(process.cwd(), converters, {
      log: (value) => this.showResult(value),
      error: (...values) => this.takeFailure(values),
    });
    this.info = kernelInfo(versions.typescript);
    this.takeOver();
    await this.listen(require.resolve('zeromq', { paths: [tslab] }));
  }

  /** Output, interrupts and errors that no cell caught. */
  takeOver() {
    for (const name of ['stdout', 'stderr']) {
      process[name].write = (chunk, encoding, callback) => {
        this.write(name, typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString());
        const done = typeof encoding === 'function' ? encoding : callback;
        if (done) process.nextTick(done);
        return true;
      };
    }
    globalThis[KERNEL] = {
      interrupts: this.interrupts,
      display: (data, options) => this.showDisplay(data, options),
    };
    // What tslab's own `display` calls.
    this.display.lastWriteDisplayData = (content, update) =>
      this.publish(update ? 'update_display_data' : 'display_data', content);
    process.on('SIGINT', () => this.interrupt());
    process.on('SIGTERM', () => void this.shutdown());
    for (const event of ['uncaughtException', 'unhandledRejection'])
      process.on(event, (error) => this.publish('error', errorContent(error)));
    // Jupyter may have been killed: a kernel that nobody can reach ends, and what it trains is saved.
    setInterval(() => process.ppid === this.parent || void this.shutdown(), PARENT_CHECK_MS).unref();
  }

  publishState() {
    const state = this.running === null ? 'idle' : 'busy';
    this.publish('status', { execution_state: state }, this.running ?? undefined);
  }

  /** Starts the thread that has the sockets. Everything here is done by its messages: nothing waits that could be ended. */
  listen(zeromqPath) {
    const workerData = {
      ...{ zeromqPath, connection: this.connection, kernelInfo: this.info },
      shared: this.shared.buffer,
    };
    const wires = new Worker(path.join(__dirname, 'control.cjs'), { workerData });
    this.wires = wires;
    let newest = 0;
    const handlers = {
      ready: () => this.publish('status', { execution_state: 'starting' }),
      listener: () => this.publishState(),
      request: ({ id, request }) => {
        if (id > newest) this.receive(request);
        newest = Math.max(newest, id);
        wires.postMessage({ type: 'taken', id });
      },
      interrupt: ({ id }) => {
        wires.postMessage({ type: 'heard' });
        if (id !== this.lastInterrupt) this.interrupt();
        this.lastInterrupt = id;
      },
      ended: () => this.breakOff(),
      nothing: () => {},
      shutdown: () => void this.shutdown(),
    };
    wires.on('message', (message) => handlers[message.type](message));
    return new Promise((_, reject) => wires.on('error', reject));
  }

  receive(request) {
    const type = request.header?.msg_type;
    if (type === 'execute_request') {
      this.queue.push(request);
      setImmediate(() => this.next());
      return;
    }
    const doing = Atomics.exchange(this.shared, 2, DOING.kernel);
    try {
      this.answer(request, type);
    } catch (error) {
      const { ename, evalue } = errorContent(error);
      this.reply(request, { status: 'error', ename, evalue, traceback: [] });
      this.publish('status', { execution_state: 'idle' }, request);
    }
    Atomics.store(this.shared, 2, doing);
  }

  /** Replies to everything but execution, also while a cell runs. */
  answer(request, type) {
    const { content } = request;
    this.publish('status', { execution_state: 'busy' }, request);
    const replies = {
      kernel_info_request: () => this.info,
      is_complete_request: () => this.isComplete(content),
      inspect_request: () => this.inspect(content),
      complete_request: () => this.complete(content),
      comm_info_request: () => ({ status: 'ok', comms: {} }),
      history_request: () => ({ status: 'ok', history: [] }),
      shutdown_request: () => ({ status: 'ok', restart: content.restart === true }),
    };
    const reply = replies[type];
    if (reply !== undefined) this.reply(request, reply());
    this.publish('status', { execution_state: 'idle' }, request);
    // JupyterLab hears nothing after a restart until this reply, which may come after the status that belongs to it.
    if (type === 'kernel_info_request')
      setTimeout(() => this.ending || this.publishState(), STATE_AGAIN_MS).unref();
    // Frontends take the last status for the kernel's, whatever request it belongs to.
    if (this.running !== null) this.publish('status', { execution_state: 'busy' }, this.running);
    if (type === 'shutdown_request') void this.shutdown();
  }

  isComplete({ code }) {
    const { completed, indent } = this.compiler.isCompleteCode(code);
    return completed ? { status: 'complete' } : { status: 'incomplete', indent };
  }

  inspect({ code, cursor_pos: position }) {
    const found = this.executor.inspect(code, unitsOf(code, position));
    const data = found ? { 'text/plain': this.inspection.printQuickInfo(found) } : {};
    return { status: 'ok', found: Boolean(found), data, metadata: {} };
  }

  complete({ code, cursor_pos: position }) {
    const { start, end, candidates } = this.executor.complete(code, unitsOf(code, position));
    const [from, to] = [start, end].map((unit) => [...code.slice(0, unit)].length);
    return { status: 'ok', matches: candidates, cursor_start: from, cursor_end: to, metadata: {} };
  }

  /** Runs the next cell that waits. */
  next() {
    if (this.running !== null || this.ending) return;
    const request = this.queue.shift();
    if (request === undefined) return;
    this.flush();
    this.running = this.latest = request;
    const { code, silent = false } = request.content;
    this.publish('status', { execution_state: 'busy' });
    if (!silent) this.count++;
    if (!silent) this.publish('execute_input', { code, execution_count: this.count });
    this.run(String(code))
      .catch(errorContent)
      .then((failure) => this.running === request && this.lastWords === undefined && this.endCell(failure));
  }

  /** Ends the cell that runs, once. @param failure  the content of its `error` message, or null */
  endCell(failure) {
    const request = this.running;
    if (request === null) return;
    Atomics.store(this.shared, 2, DOING.cells);
    if (this.lastWords !== undefined) return this.lastWords();
    const execution = { execution_count: this.count };
    const { stop_on_error: stopOnError = true } = request.content;
    this.lastWords = () => {
      this.lastWords = undefined;
      // Before the reply: what comes after it was sent by somebody who knows of the failure.
      const waiting = failure !== null && stopOnError ? this.queue.splice(0) : [];
      this.reply(
        request,
        failure === null
          ? { status: 'ok', ...execution, payload: [], user_expressions: {} }
          : { status: 'error', ...execution, ...failure },
      );
      for (const aborted of waiting) this.abort(aborted);
      this.publish('status', { execution_state: 'idle' }, request);
      this.running = null;
      setImmediate(() => this.next());
    };
    this.flush();
    if (failure === null) return this.lastWords();
    this.publish('error', failure);
    const words = this.lastWords;
    setTimeout(() => this.lastWords === words && words(), stopOnError ? ABORT_MS : 0);
  }

  abort(request) {
    this.publish('status', { execution_state: 'busy' }, request);
    this.reply(request, { status: 'aborted' });
    this.publish('status', { execution_state: 'idle' }, request);
  }

  /** @returns the content of the cell's `error` message, or null */
  async run(code) {
    Atomics.store(this.shared, 2, DOING.kernel);
    const problem = this.problem ?? this.build.problem();
    if (problem !== null) return sentenceContent('SetupError', problem);
    if (this.build.refresh(this.executor.locals))
      this.write('stderr', 'The library was built again: its new code is in force from here on.\n');
    this.failure = null;
    this.diagnostics = [];
    Atomics.store(this.shared, 1, 0);
    this.askedToStop = false;
    const cell = rewriteCell(this.compiler.ts, code);
    const ok = await this.executor.execute(cell.code);
    if (ok) {
      for (const { file, line, character, message } of this.diagnostics)
        this.write('stderr', `${file}${line}:${character} ${message}\n`);
      return null;
    }
    if (this.diagnostics.length > 0) return diagnosticsContent(this.diagnostics, code, cell.typedColumn);
    forgetHalfLoaded();
    return errorContent(this.failure?.error);
  }

  /** What tslab prints of a cell that failed: complaints of its compiler, or what was thrown. */
  takeFailure(values) {
    const [format, file, line, character, message] = values;
    if (values.length === 5 && format === '%s%d:%d - %s')
      this.diagnostics.push({ file, line, character, message });
    else this.failure = { error: values[0] };
    return false;
  }

  /**
   * Work of the library that listens ends at its next safe point, and the cell with it. Other cells, and any cell that is
   * interrupted again, end at once; what they had started and awaited may go on behind them.
   */
  interrupt() {
    if (this.running === null || this.lastWords !== undefined) return;
    if (this.interrupts.listenerCount('interrupt') > 0 && !this.askedToStop) {
      this.askedToStop = true;
      this.write('stderr', 'Stopping at the next safe point; interrupt again to end the cell at once.\n');
      this.interrupts.emit('interrupt');
      return;
    }
    this.breakOff();
  }

  /** Ends the cell at once; what it had started and awaited may go on behind it. */
  breakOff() {
    this.interrupts.removeAllListeners('interrupt');
    this.executor.interrupt();
    this.endCell(interruptedContent());
  }

  async shutdown() {
    if (this.ending) return;
    this.ending = true;
    this.queue.length = 0;
    if (this.running !== null && this.interrupts.listenerCount('interrupt') > 0) {
      this.interrupts.emit('interrupt');
      const end = Date.now() + LAST_WORDS_MS;
      while (this.interrupts.listenerCount('interrupt') > 0 && Date.now() < end)
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    this.flush();
    // A socket that is open when its thread ends crashes the process.
    this.wires?.postMessage({ type: 'close' });
    await new Promise((resolve) => (this.wires ? this.wires.on('exit', resolve) : resolve()));
    process.exit(0);
  }

  showResult(value) {
    const text = typeof value === 'string' || isFrame(value) ? String(value) : util.inspect(value);
    const content = { execution_count: this.count, data: { 'text/plain': text }, metadata: {} };
    this.publish('execute_result', content);
  }

  /**
   * Shows data by MIME type.
   * @param options  `id` names the display; with `update` it replaces what stands under that name
   */
  showDisplay(data, { id, update = false, metadata = {} } = {}) {
    const transient = id === undefined ? {} : { display_id: id };
    this.publish(update ? 'update_display_data' : 'display_data', { data, metadata, transient });
  }

  /** Gathers text, so that a loop that prints does not flood the page; what is old enough goes out at once. */
  write(name, text) {
    const { streams } = this;
    if (streams.name !== name) this.flush();
    streams.name = name;
    streams.text += text;
    if (Date.now() - streams.sent >= STREAM_MS) this.flush();
    else streams.timer ??= setTimeout(() => this.flush(), STREAM_MS);
  }

  flush() {
    const { streams } = this;
    clearTimeout(streams.timer);
    const { name, text } = streams;
    Object.assign(streams, { timer: null, text: '', sent: Date.now() });
    if (text !== '') this.send('stream', { name, text });
  }

  /** @param request  whose output it is; default: that of the cell that runs, or ran last */
  publish(type, content, request = this.latest) {
    this.flush();
    this.send(type, content, request);
  }

  send(type, content, request = this.latest) {
    const frames = writeMessage(this.connection.key, type, content, { request });
    this.wires?.postMessage({ type: 'send', name: 'iopub', frames });
  }

  reply(request, content) {
    const type = request.header.msg_type.replace('request', 'reply');
    const { identity } = request;
    const frames = writeMessage(this.connection.key, type, content, { request, identity });
    this.wires.postMessage({ type: 'send', name: 'shell', frames });
  }
}

/** Modules whose loading was interrupted: they would stay half of what they are. */
function forgetHalfLoaded() {
  for (const [file, module] of Object.entries(require.cache))
    if (module?.loaded === false) delete require.cache[file];
}

/** Jupyter counts code points, TypeScript the units of a JavaScript string. */
function unitsOf(code, position) {
  return [...code].slice(0, position).join('').length;
}

/** danfo's tables print themselves as tables; what Node makes of them is pages of their insides. */
function isFrame(value) {
  return typeof value === 'object' && value !== null && '$dataIncolumnFormat' in value;
}

function kernelInfo(typescript) {
  return {
    status: 'ok',
    protocol_version: '5.3',
    implementation: 'grpolab',
    implementation_version: '1.0',
    language_info: {
      ...{ name: 'typescript', version: typescript, mimetype: 'text/typescript', file_extension: '.ts' },
      pygments_lexer: 'typescript',
      // Both JupyterLab's and the classic notebook's editor find TypeScript by this.
      codemirror_mode: { mode: 'typescript', name: 'javascript', typescript: true },
    },
    banner: `TypeScript ${typescript} on Node ${process.versions.node}, with grpolab`,
    help_links: [],
  };
}

/**
 * Stands between tslab and Node's `vm`: gives a cell's script a name, so that the frames of an error say which cell they
 * are of, and tells the control thread while the script is on the stack, where SIGINT ends it.
 */
function watchCells(shared, count) {
  const run = vm.runInThisContext;
  vm.runInThisContext = (code, options) => {
    if (options?.breakOnSigint !== true) return run.call(vm, code, options);
    const filename = `cell ${count()}`;
    rememberCell(filename, code);
    Atomics.store(shared, 2, DOING.script);
    try {
      return run.call(vm, code, { ...options, filename });
    } finally {
      Atomics.store(shared, 2, DOING.cells);
    }
  };
}

/** Runs a kernel until it is shut down. */
async function startKernel(options) {
  await new Kernel(options).start();
}

module.exports = { startKernel };
