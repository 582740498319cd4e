// SPDX-License-Identifier: BSD-3-Clause
// Search runs in a worker, which browsers do not start for pages of a folder. There a hidden frame runs its script.
// The theme's offline plugin loads a file of this name in place of one from the network.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script>window.postMessage = message => parent.postMessage(message, "*")</script>` +
        `<script src="${new URL(url, document.baseURI)}"></script>`;
      window.addEventListener("message", event => {
        if (event.source !== frame.contentWindow) return;
        event.stopImmediatePropagation();
        this.dispatchEvent(new MessageEvent("message", {data: event.data}));
      });
      frame.addEventListener("load", () => {
        this.send = message =>
          frame.contentWindow.dispatchEvent(new frame.contentWindow.MessageEvent("message", {data: message}));
        this.waiting.forEach(this.send);
      });
      document.documentElement.appendChild(frame);
    }
    postMessage(message) {
      this.send ? this.send(message) : this.waiting.push(message);
    }
    terminate() {}
  };
  window.Worker = window.IFrameWorker;
}
