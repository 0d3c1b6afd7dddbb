// The control channel, in a thread of its own: it answers while the kernel's thread is in a loop that never waits.
const inspector = require('node:inspector');
const { parentPort, workerData } = require('node:worker_threads');
const { readMessage, writeMessage } = require('./wire.cjs');

const { zeromqPath, connection, kernelInfo } = workerData;
const zeromq = require(zeromqPath);
/** [listeners to interrupts, interrupts of this cell, 1 while the cell's script is on the stack] */
const shared = new Int32Array(workerData.shared);

/** The kernel's thread hears a message between two pieces of JavaScript; one that has not by then is in a long one. */
const DEAF_AFTER_MS = 300;
/** Jupyter waits five seconds before it ends a kernel itself. */
const SHUTDOWN_AFTER_MS = 4_500;

let answered = () => {};

/** Asks the kernel's thread to interrupt its cell. @returns whether it heard within the time */
function ask(type) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), DEAF_AFTER_MS);
    answered = () => {
      clearTimeout(timer);
      resolve(true);
    };
    parentPort.postMessage(type);
  });
}

/** Ends the JavaScript after an `await` that runs in the kernel's thread, as a browser's debugger does; the process and its state stay. */
function terminateExecution() {
  const session = new inspector.Session();
  session.connectToMainThread();
  session.post('Runtime.terminateExecution', () => session.disconnect());
}

/**
 * Work of the library that listens to interrupts ends by itself at its next safe point: the first request leaves it the
 * time. A second one does not.
 */
async function interrupt() {
  const isFirst = Atomics.add(shared, 1, 1) === 0;
  const heard = await ask('interrupt');
  if (heard || (isFirst && Atomics.load(shared, 0) > 0)) return;
  if (Atomics.load(shared, 2) === 1) process.kill(process.pid, 'SIGINT');
  else terminateExecution();
}

async function serve() {
  const socket = new zeromq.Router({ linger: 0 });
  parentPort.on('message', (message) => {
    if (message !== 'close') return answered();
    socket.close();
    parentPort.close();
  });
  await socket.bind(`${connection.transport}://${connection.ip}:${connection.control_port}`);
  parentPort.postMessage('ready');
  const { key } = connection;
  const contents = {
    interrupt_request: () => ({ status: 'ok' }),
    kernel_info_request: () => kernelInfo,
    shutdown_request: ({ content }) => ({ status: 'ok', restart: content.restart === true }),
  };
  for await (const frames of socket) {
    try {
      const request = readMessage(key, frames);
      const type = request.header.msg_type;
      if (contents[type] === undefined) continue;
      const reply = { request, identity: request.identity };
      await socket.send(writeMessage(key, type.replace('request', 'reply'), contents[type](request), reply));
      if (type === 'interrupt_request') await interrupt();
      if (type === 'shutdown_request') {
        parentPort.postMessage('shutdown');
        setTimeout(() => process.kill(process.pid, 'SIGKILL'), SHUTDOWN_AFTER_MS).unref();
      }
    } catch (error) {
      console.error(`kernel: ${error.message}`);
    }
  }
}

void serve();
