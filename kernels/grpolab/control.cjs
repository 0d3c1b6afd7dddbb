// The wires to Jupyter, in a thread of their own: whatever the kernel's thread does, they answer, and no send waits in it.
const inspector = require('node:inspector');
const { parentPort, workerData } = require('node:worker_threads');
const { readMessage, writeMessage } = require('./wire.cjs');

const { zeromqPath, connection, kernelInfo } = workerData;
const zeromq = require(zeromqPath);
const { key } = connection;
/** [listeners to interrupts, interrupts of this cell, what runs in the kernel's thread: see `Doing`] */
const shared = new Int32Array(workerData.shared);
const Doing = { kernel: 0, script: 1 };

/** The kernel's thread hears a message between two pieces of JavaScript; one that has not by then is in a long one. */
const DEAF_AFTER_MS = 300;
/** Jupyter waits five seconds before it ends a kernel itself. */
const SHUTDOWN_AFTER_MS = 4_500;

const sockets = {
  // Without a limit: beyond it messages of a loop would be dropped, not delayed.
  iopub: new zeromq.XPublisher({ linger: 1000, verbosity: 'allSubs', sendHighWaterMark: 0 }),
  shell: new zeromq.Router({ linger: 1000 }),
  control: new zeromq.Router({ linger: 0 }),
  stdin: new zeromq.Router(),
  hb: new zeromq.Reply(),
};

/** zeromq takes one message of a socket at a time. */
const sent = { iopub: Promise.resolve(), shell: Promise.resolve() };
function send(name, frames) {
  sent[name] = sent[name].then(() => sockets[name].send(frames)).catch(() => {});
}

/** Requests that the kernel's thread has not taken yet: what ends its code may end it before it looks. */
const waiting = new Map();
let [number, isEnding, heard] = [0, false, () => {}];
function pass(message) {
  const id = ++number;
  waiting.set(id, { ...message, id });
  if (!isEnding) parentPort.postMessage(waiting.get(id));
}

/** @returns whether the kernel's thread heard within the time */
function ask(id) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), DEAF_AFTER_MS);
    heard = () => {
      clearTimeout(timer);
      resolve(true);
    };
    parentPort.postMessage({ type: 'interrupt', id });
  });
}

/** Ends the JavaScript after an `await` that runs in the kernel's thread, as a browser's debugger does. */
async function terminateExecution() {
  const session = new inspector.Session();
  session.connectToMainThread();
  isEnding = true;
  await new Promise((resolve) => {
    session.post('Runtime.terminateExecution', resolve);
    // Where that thread has become free meanwhile, this is what ends.
    parentPort.postMessage({ type: 'nothing' });
  });
  session.disconnect();
  isEnding = false;
  parentPort.postMessage({ type: 'ended' });
  for (const message of waiting.values()) parentPort.postMessage(message);
}

/**
 * Work of the library that listens to interrupts ends by itself at its next safe point: the first request leaves it the
 * time. A second one does not. The kernel's own work, such as compiling a cell, is left to finish.
 */
async function interrupt() {
  const isFirst = Atomics.add(shared, 1, 1) === 0;
  const id = ++number;
  while (!(await ask(id)) && !(isFirst && Atomics.load(shared, 0) > 0)) {
    const doing = Atomics.load(shared, 2);
    if (doing === Doing.script) process.kill(process.pid, 'SIGINT');
    else if (doing !== Doing.kernel) await terminateExecution();
  }
}

async function readShell() {
  for await (const frames of sockets.shell) {
    try {
      pass({ type: 'request', request: readMessage(key, frames) });
    } catch (error) {
      console.error(`kernel: ${error.message}`);
    }
  }
}

async function readControl() {
  const contents = {
    interrupt_request: () => ({ status: 'ok' }),
    kernel_info_request: () => kernelInfo,
    shutdown_request: ({ content }) => ({ status: 'ok', restart: content.restart === true }),
  };
  let interrupts = Promise.resolve();
  for await (const frames of sockets.control) {
    try {
      const request = readMessage(key, frames);
      const type = request.header.msg_type;
      if (!Object.hasOwn(contents, type)) continue;
      const reply = { request, identity: request.identity };
      await sockets.control.send(
        writeMessage(key, type.replace('request', 'reply'), contents[type](request), reply),
      );
      if (type === 'interrupt_request') interrupts = interrupts.then(interrupt);
      if (type === 'shutdown_request') {
        parentPort.postMessage({ type: 'shutdown' });
        setTimeout(() => process.kill(process.pid, 'SIGKILL'), SHUTDOWN_AFTER_MS).unref();
      }
    } catch (error) {
      console.error(`kernel: ${error.message}`);
    }
  }
}

async function echo() {
  for await (const frames of sockets.hb) await sockets.hb.send(frames);
}

async function welcome() {
  for await (const [frame] of sockets.iopub) if (frame[0] === 1) parentPort.postMessage({ type: 'listener' });
}

async function close() {
  await Promise.all(Object.values(sent));
  for (const socket of Object.values(sockets)) socket.close();
  parentPort.close();
}

async function serve() {
  parentPort.on('message', ({ type, name, frames, id }) => {
    if (type === 'send') send(name, frames);
    else if (type === 'taken') waiting.delete(id);
    else if (type === 'heard') heard();
    else void close();
  });
  const { transport, ip } = connection;
  await Promise.all(
    Object.entries(sockets).map(([name, socket]) =>
      socket.bind(`${transport}://${ip}:${connection[`${name}_port`]}`),
    ),
  );
  parentPort.postMessage({ type: 'ready' });
  await Promise.all([readShell(), readControl(), echo(), welcome()]);
}

void serve();
