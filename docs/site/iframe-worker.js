// SPDX-License-Identifier: BSD-3-Clause
// Search runs in a worker, which browsers do not start for pages of a folder. There a hidden frame runs its script, and
// one end of a channel stands for the worker: it sends, receives, and keeps messages until the frame has loaded.
// The theme's offline plugin takes a file of this name in place of one from the network. Its search script asks for
// window.IFrameWorker.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = function (url) {
    const {port1: ours, port2: theirs} = new MessageChannel();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    frame.srcdoc = `<script src="${new URL(url, document.baseURI)}"></script>`;
    frame.onload = () => {
      const inside = frame.contentWindow;
      inside.postMessage = message => theirs.postMessage(message);
      theirs.onmessage = ({data}) => inside.dispatchEvent(new inside.MessageEvent("message", {data}));
    };
    document.documentElement.append(frame);
    ours.start();
    ours.terminate = () => frame.remove();
    return ours;
  };
}
